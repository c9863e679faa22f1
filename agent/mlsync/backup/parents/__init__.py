"""What came before a new version: its parent, who made it, what was decided and proved since."""
