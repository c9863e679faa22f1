"""Checkpoints of several files: which files belong together, and whether all of them are there.

Imports ``dcp`` and ``libraries`` for the small files that describe the others; reads no tensor.
"""
