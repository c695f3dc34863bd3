"""Searching the design space with Optuna. Imports neither torch nor optuna."""
