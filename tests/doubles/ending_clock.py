"""A clock by which the time is up after so many looks at it."""

from __future__ import annotations


class EndsAfter:
    """A clock that passes the end when it has been asked so many times."""

    def __init__(self, count):
        self.count = count

    def __call__(self):
        """The time."""
        self.count -= 1
        return 0.0 if self.count >= 0 else 1e9
