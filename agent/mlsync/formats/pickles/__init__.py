"""Pickles, which are read and never run: the interpreter, numpy's arrays in them, and files that are one pickle.

Imports only the modules beside the folders.
"""
