"""Versions as several flows read them: find one, its proof status, its files, and the files that belong together."""
