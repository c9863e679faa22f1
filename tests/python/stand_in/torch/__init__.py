"""As much of torch as the examples of docs/python.md use: what is saved is a file."""

import pathlib


def ones(count):
    """A tensor, nearly."""
    return [1.0] * count


def save(value, path):
    """A file."""
    pathlib.Path(path).write_text(repr(value))
