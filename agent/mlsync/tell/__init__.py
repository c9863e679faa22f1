"""Notices to people and programs: what is told, in which words, to which service, and when it is tried again.

It knows nothing of runs and backups. What speaks HTTP runs in a short-lived process (``send.py``).
"""
