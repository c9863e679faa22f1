"""How a version is made: ``backup`` looks for a change, and ``new_version`` reads, stores, proves and commits."""
