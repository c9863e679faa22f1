"""The logs of trainings that a version holds: which files they are, and the numbers in them."""
