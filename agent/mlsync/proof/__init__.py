"""Does a checkpoint that came back from the store load? Levels 0 to 4, the device's part in a child process.

Imports the leaves only. ``device.py`` is never imported: it is the child's program, the one place that knows torch.
"""
