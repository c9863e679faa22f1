"""What differs between two versions: files, and tensors inside of checkpoints."""
