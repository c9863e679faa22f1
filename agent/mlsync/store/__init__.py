"""Where objects live: a directory, S3, or memory, and the wrappers that retry, count and break.

Imports the leaves only (errors, monitor, buffers). ``base`` has the contract; ``location.open_store`` is the door.
"""
