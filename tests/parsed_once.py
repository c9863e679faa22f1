"""Has botocore parse each of its models once in a process, and not for each client anew.

A test makes a client or two, with sessions of their own; each would parse a megabyte of JSON and pay for more than all
of the test's requests. What is parsed and who parses it are botocore's.
"""

from __future__ import annotations

from typing import Any


def parse_once() -> None:
    """From now on all of botocore's loaders remember together what each remembers by itself."""
    from botocore.loaders import Loader

    make = Loader.__init__
    together: dict[object, Any] = {}

    def make_with_memory(self: Loader, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        self._cache = together

    Loader.__init__ = make_with_memory
