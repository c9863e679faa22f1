"""What trainers write beside their checkpoints about the training: numbers by step and epoch, and facts.

Imports ``libraries`` and the modules beside the folders. A log is no checkpoint: one that is torn, or has other
content, tells less or nothing, and is no error.
"""
