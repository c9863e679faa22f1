"""Small checkpoints in safetensors' format, made without a library: tensors, and the numbers that a trainer counts."""

from __future__ import annotations

import json


def saved(*, optimizer: bool = False, fill: bytes = b"\0", **numbers: float) -> bytes:
    """A file with a weight, with an optimizer's state if wanted, and with these numbers among its texts."""
    names = ["model.weight", *(["optimizer.exp_avg"] if optimizer else [])]
    header: dict[str, object] = {"__metadata__": {name: str(number) for name, number in numbers.items()}}
    for place, name in enumerate(names):
        header[name] = {"dtype": "F32", "shape": [4], "data_offsets": [16 * place, 16 * place + 16]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + fill * (16 * len(names))
