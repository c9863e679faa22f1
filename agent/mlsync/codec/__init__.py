"""Bytes to bytes: names, compression, sealing, key derivation. Imports errors alone; knows no object and no store."""
