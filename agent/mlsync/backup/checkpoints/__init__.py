"""What a backup knows of checkpoints: how they are cut, which files belong together, and which are of one save."""
