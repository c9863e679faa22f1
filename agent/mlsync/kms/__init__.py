"""Keys of AWS KMS: they wrap the secrets of key slots and never leave the service."""
