"""The demo: a real trainer as a process of its own, and a story around it, played with mlsync's commands."""
