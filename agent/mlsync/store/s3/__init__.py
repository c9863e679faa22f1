"""The S3 store. Only ``location`` imports it, and late, because boto3 is slow to import; it needs ``store.S3Store``."""
