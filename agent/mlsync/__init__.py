"""mlsync keeps checkpoints as encrypted, deduplicated versions and proves that they load before it calls them saved."""

__version__ = "0.1.0"
