"""MLflow's registry of models: its addresses, names and requests. It knows nothing of runs and backups."""
