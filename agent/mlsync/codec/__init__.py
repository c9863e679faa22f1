"""Bytes to bytes: names, compression, sealing, key derivation. It imports ``buffers`` only and knows no store."""
