"""Amounts of memory as people write them in a configuration: ``512MiB``, ``1.5GiB``."""

from __future__ import annotations

import re

_BYTES_PER = {"MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(MiB|GiB|MB|GB)")
ALLOWED = 'an amount of memory like "512MiB" or "1.5GiB"'


def parse_size(value: object) -> int:
    """The bytes that *value* says; ``ValueError`` if it is no amount of memory."""
    size = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if size is None:
        raise ValueError(ALLOWED)
    return int(float(size[1]) * _BYTES_PER[size[2]])
