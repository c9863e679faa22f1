"""Not initialised: one process."""


def is_available():
    """It could be."""
    return True


def is_initialized():
    """It is not."""
    return False
