"""What keeps a repository sound: ``check`` names every problem, ``scrub`` reads a rolling share of the packs."""
