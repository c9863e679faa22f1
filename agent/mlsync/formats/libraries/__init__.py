"""A parser for the files of each other library."""
