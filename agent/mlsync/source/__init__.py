"""The watched tree: what is in it, whether it holds still, where its files are cut, and what is remembered of it."""
