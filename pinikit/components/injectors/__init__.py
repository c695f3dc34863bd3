"""Injectors: networks and free parameters that yield a noise's parameters."""
