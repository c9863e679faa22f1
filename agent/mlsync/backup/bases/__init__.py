"""The bases of differences: as a difference to which chunk a tensor is stored, and where the bytes of that one are."""
