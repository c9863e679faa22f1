"""``mlsync run``: a training as mlsync's child, and a process beside it that is the agent; imports as ``service``."""
