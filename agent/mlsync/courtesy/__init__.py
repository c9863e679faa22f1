"""How mlsync yields to a training on the same machine: a leaf that every layer may use.

``priority`` lowers a process, ``session`` gives a command its own session, ``pressure`` shows what others wait for.
"""
