"""Zip files: where their records lie, how one is read or inflated, and what npz keeps in them.

Imports only the modules beside the folders; knows no other format.
"""
