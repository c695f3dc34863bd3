"""Combine: how a sample meets the clean tensor."""
