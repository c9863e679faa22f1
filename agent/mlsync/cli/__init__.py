"""The commands: one file each, which reads arguments, calls the service and the flows, and prints. Decides nothing."""
