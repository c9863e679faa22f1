"""Restore a version: ``restore`` holds the steps, ``mlsync.target`` writes the directory."""
