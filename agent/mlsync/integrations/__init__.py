"""Tell the agent of saves from within a framework: a module for each one, which imports it only if it has to.

None of them copies, waits or fails: each calls ``mlsync.now`` where the framework says that a checkpoint is whole.
"""
