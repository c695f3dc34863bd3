"""Frozen open_clip models, seen as an image pipeline and a text pipeline of named stages."""
