"""A second copy of a repository: its sealed objects as they are, in another store."""
