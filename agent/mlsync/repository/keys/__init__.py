"""Who opens a repository: key slots, the epochs of the master key, and the keys of single objects."""
