"""The devices that a proof can be asked for on, in the configuration and on the command line alike."""

from __future__ import annotations

import re

_DEVICE = re.compile(r"auto|cuda(?::\d{1,3})?|cpu|none")
DEVICES = '"auto", "cuda", "cuda:N", "cpu", "none"'


def is_device(value: object) -> bool:
    """Whether a proof can be asked for on that."""
    return isinstance(value, str) and _DEVICE.fullmatch(value) is not None
