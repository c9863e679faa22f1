"""How people, monitors and commands talk with a running agent: a private socket, and a port for those who want one."""
