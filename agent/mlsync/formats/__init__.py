"""Parsers of checkpoint containers: where the pieces of a file lie and what they mean, read from untrusted bytes.

``containers`` is the entry: ``sniff`` names a file's container, its parser returns a ``layout.Layout`` (level 1), and
from that a ``layout.Content`` (level 2). Each folder is one family of formats; the other modules beside the folders are
what all parsers share, and import no folder. A leaf: imports ``errors`` at most, and runs nothing that a file contains.
"""
