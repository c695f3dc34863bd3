"""``python -m pinikit``."""

from pinikit.cli import main

if __name__ == "__main__":
    main()
