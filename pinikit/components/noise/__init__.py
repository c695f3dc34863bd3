"""Noise: distribution families."""
