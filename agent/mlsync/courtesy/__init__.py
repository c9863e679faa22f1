"""How mlsync stands back for whoever trains on the same machine: a leaf, which every layer may use.

``priority`` lowers a process, ``session`` gives a command a session of its own, ``pressure`` asks what others wait for.
"""
