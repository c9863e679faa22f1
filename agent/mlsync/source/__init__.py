"""The watched directory: scan, read files without being fooled, cut them into pieces; and the local state."""
