"""What several flows read of versions: find one, say how it stands, open its files, and tell which belong together."""
