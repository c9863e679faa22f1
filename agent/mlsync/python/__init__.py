"""What a program in Python calls: a training that tells of its saves, a notebook that looks and restores.

It runs in processes of others. So it imports little, prints nothing, keeps no thread and no socket, and copies no byte.
"""
