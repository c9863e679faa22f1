"""Does a checkpoint that came back from the store load? Levels 0 to 4, the device's part in a child process, and 5.

Imports the leaves only. ``device.py``, ``launch.py`` and ``load_*.py`` are never imported: they are programs of child
processes, and the only places that know torch.
"""
