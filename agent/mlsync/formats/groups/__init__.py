"""Checkpoints of several files: which files belong together, told by their names and headers."""
