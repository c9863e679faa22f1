"""Looks at what a backup depends on, one module per subject; may import configuration, app, proof, repository, store.

Each check turns facts into findings, under a time bound of its own, and none of them stops another.
"""
