"""How a version comes back: ``restore`` tells it, into a directory of ``mlsync.target``."""
