"""What makes a pass due: events of the file system, held saves, the schedule; ``watch`` tells it all to ``trigger``."""
