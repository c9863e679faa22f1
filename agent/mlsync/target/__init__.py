"""A directory that files of a version are written into: by a restore, and by the proof that has them loaded."""
