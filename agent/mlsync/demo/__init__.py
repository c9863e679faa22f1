"""The demo: a real trainer as a process of its own, and the story that is told around it with mlsync's commands."""
