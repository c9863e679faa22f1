"""Distributed checkpoints of torch (``torch.distributed.checkpoint``): the metadata, and the shards that it describes.

Imports ``zips``, ``pickles``, ``torch`` and the safetensors parser, because a shard's items are in those formats.
"""
