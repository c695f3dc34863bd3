"""Data sets, split manifests, picture transforms and the view bank."""
