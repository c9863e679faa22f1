"""torch.distributed.checkpoint: shards, and the metadata that says what is in them."""
