"""The agent as a unit of systemd: installing it, and what it tells the service manager."""
