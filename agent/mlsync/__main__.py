"""``python -m mlsync`` is the command ``mlsync``."""

from mlsync.cli.main import main

main()
