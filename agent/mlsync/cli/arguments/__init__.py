"""What all commands take: options, their help, and how it stops and gives way to others."""
