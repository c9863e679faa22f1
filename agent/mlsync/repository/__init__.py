"""The format: header, key slots, packs, manifests, and how they are written and read. Imports codec, store, errors."""
