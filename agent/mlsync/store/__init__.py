"""Where objects live: a directory or S3, and the wrappers that retry, count and log.

It imports only leaves (``errors``, ``buffers``, ...). Others import the contract from ``base``, ``location.open_store``
with ``options``, and the wrappers; ``directory`` and ``s3`` are private to ``location``. Doubles for tests, a store in
memory and one that fails on request, are in ``tests/doubles``.
"""
