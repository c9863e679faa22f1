"""Whether a checkpoint that came back from the store loads: levels 0 to 4 by a child process, and level 5 by a command.

``programs/`` holds what runs in those processes; only modules there import torch.
"""
