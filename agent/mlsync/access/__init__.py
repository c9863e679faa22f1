"""Who may do what in the bucket: the rights of each role (``rights``), and the document that grants them.

A right has the name that AWS gives it. ``place`` says which names a policy has for the repository's objects, ``policy``
writes AWS's documents (and MinIO's, which are nearly the same), ``ram`` Aliyun's. Nothing here asks a store.
"""
