"""What is said of versions and packs after they were written: decisions, fences, tombstones, moves."""
