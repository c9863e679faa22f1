"""Packs: their layout, the builder that fills them, and the journal that finishes an interrupted upload."""
