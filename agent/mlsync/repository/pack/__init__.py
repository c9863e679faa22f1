"""Packs: how their bytes lie, how they are filled, and how an upload that was cut off is gone on with."""
