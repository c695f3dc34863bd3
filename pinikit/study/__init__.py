"""Studies: arms and runs, what is kept of them, how they are executed and compared."""
