"""Lightning under its newer name."""
