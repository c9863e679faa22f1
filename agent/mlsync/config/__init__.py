"""The configuration: its keys, how a file is read and checked, and the template that ``mlsync init`` writes."""
