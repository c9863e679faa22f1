"""How commands show things on a terminal: progress, tables, sizes and times, the next steps."""
