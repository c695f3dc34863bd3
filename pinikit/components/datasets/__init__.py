"""Data sets: one a file; files that start with an underscore are shared code, not components."""
