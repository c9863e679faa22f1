"""What ``torch.save`` and ``torch.export.save`` write: the object's graph, its tensors and their storages.

Imports ``zips`` and ``pickles``.
"""
