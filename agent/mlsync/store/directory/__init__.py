"""The directory store. ``location`` imports ``store.DirectoryStore``; the other modules are for this folder alone."""
