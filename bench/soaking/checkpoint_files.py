"""Small checkpoints in the formats of safetensors and torch, written with Python alone: a trainer starts at once."""

from __future__ import annotations

import io
import json
import random
import zipfile

NUMBER_BYTES = 4


def numbers(dice: random.Random, count: int) -> bytes:
    """*count* finite float32 numbers near one, as bytes."""
    plain = bytearray(dice.randbytes(NUMBER_BYTES * count))
    plain[3::NUMBER_BYTES] = b"\x3f" * count
    return bytes(plain)


def safetensors(tensors: dict[str, bytes], texts: dict[str, str]) -> bytes:
    header: dict[str, object] = {"__metadata__": texts}
    end = 0
    for name, plain in tensors.items():
        begin, end = end, end + len(plain)
        shape = [len(plain) // NUMBER_BYTES]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return b"".join((len(raw).to_bytes(8, "little"), raw, *tensors.values()))


def torch_zip(tensors: dict[str, bytes], facts: dict[str, int]) -> bytes:
    """What ``torch.save`` would write of a dictionary with these tensors and numbers; ``torch.load`` reads it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", _pickle(tensors, facts))
        archive.writestr("archive/byteorder", b"little")
        for place, plain in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{place}", plain)
        archive.writestr("archive/version", b"3\n")
    return file.getvalue()


def _pickle(tensors: dict[str, bytes], facts: dict[str, int]) -> bytes:
    items = [_text(name) + _integer(number) for name, number in facts.items()]
    items += [
        _text(name) + _tensor(str(place), len(plain) // NUMBER_BYTES)
        for place, (name, plain) in enumerate(tensors.items())
    ]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def _tensor(storage: str, count: int) -> bytes:
    persistent_id = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(storage) + _text("cpu")
    persistent_id += _integer(count) + b"tQ"
    shape, strides = _integer(count) + b"\x85", _integer(1) + b"\x85"
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + persistent_id
        + _integer(0)
        + shape
        + strides
        + b"\x89"
        + hooks
        + b"tR"
    )


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _integer(number: int) -> bytes:
    return b"J" + number.to_bytes(4, "little")
