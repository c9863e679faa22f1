"""Notices that the machine goes away: one class for each platform, and what of them an agent has to heed.

It imports nothing of mlsync but errors, and no heavy library: an agent that waits asks every few seconds.
"""
