"""How the results of large commands look, to people and as JSON."""
