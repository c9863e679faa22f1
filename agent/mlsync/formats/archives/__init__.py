"""Archives of several files (zip, ``torch.package``, ``.nemo``), each of which is checked by its own format.

Imports ``zips``, ``pickles`` and ``torch``; the caller passes in the function that looks into an inner file.
"""
