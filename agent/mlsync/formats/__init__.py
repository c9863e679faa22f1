"""Checkpoint containers: where their pieces lie and what they mean, read from bytes that nobody trusts.

A leaf: imports ``errors`` at most, runs nothing that a file brings along, and is used by the source and by the proof.
"""
