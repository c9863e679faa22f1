"""Formats of one library each, with the encodings that two of them share (CRC-32C, protocol buffers).

Imports only the modules beside the folders.
"""
