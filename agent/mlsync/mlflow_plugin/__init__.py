"""What MLflow's client loads to read ``mlsync://`` sources: pip install 'mlsync-agent[mlflow]'.

MLflow finds it by the entry point ``mlflow.artifact_repository`` = ``mlsync``. Nothing else of mlsync imports it.
"""
