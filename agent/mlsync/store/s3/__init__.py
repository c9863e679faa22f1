"""The S3 store: ``store`` has the calls, the other modules what each of them needs."""
