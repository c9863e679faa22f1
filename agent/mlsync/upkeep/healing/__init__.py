"""Puts back from mirrors what the repository has lost."""
