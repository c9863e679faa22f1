"""Upkeep of a repository: ``check`` reports every problem, ``scrub`` reads a rolling share of the packs."""
