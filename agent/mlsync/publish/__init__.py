"""Hand a version on: to a registry of models, or as plain copies. The bytes come through a restore's checks."""
