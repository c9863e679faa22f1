"""The directory store."""
