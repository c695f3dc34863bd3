"""Measurements of pinikit beside the published way, run by hand: ``python -m benchmarks.step`` and others."""
