"""NH, the universal hash of UMAC (RFC 4418) in its signed form: the parent's side of the digest of a GPU's windows.

A child on the CPU whose Python has no xxhash uses it too. mlsync imports it, and ``device.py`` loads it by path, in
Python 3.9 or newer with numpy: it imports nothing of mlsync.

A window's 32-bit words are taken in two halves; word i of the first half plus a key word, times word i of the second
half plus another, all summed modulo 2**64 (additions modulo 2**32, read as signed). The key words are random and made
anew for each child, and begin at another place for each window, so that bytes that changed, moved or changed places
give another sum but for a chance of about 2**-31 per window. It binds the bytes that were sent to the bytes on the
device; that they are the right bytes is what the cryptographic digests of the repository say.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_UNIT_BYTES = 16
_LENGTH_FACTOR = 0x9E3779B97F4A7C15
_MODULUS = 1 << 64
_SLIDES = 64
_CHUNK_WORDS = 16 << 10  # 64 KiB each of words and key: stays in the second-level cache
# A GPU takes windows faster than one thread digests them, and the thread that fills the next one has its own work.
_THREADS = 2


class Nh:
    """Digests windows of up to *window_bytes* under the key that *seed* expands to; ``start`` in a thread beside."""

    name = "nh"

    def __init__(self, seed: bytes, window_bytes: int) -> None:
        key = hashlib.shake_256(seed).digest(window_bytes + _SLIDES * _UNIT_BYTES)
        self._key = np.frombuffer(key, dtype="<i4")
        self._second = window_bytes // 8
        self._scratch = _Scratch()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mlsync-nh")

    def start(self, window: memoryview, index: int) -> Callable[[], int]:
        """Begin to digest *window*, which stays as it is until the result was asked for."""
        return self._threads.submit(self.digest, window, index).result

    def digest(self, window: memoryview, index: int) -> int:
        """The digest of *window*, a multiple of 16 bytes, as the *index*-th of its file."""
        words = np.frombuffer(window, dtype="<i4")
        half = len(words) // 2
        slide = index % _SLIDES * (_UNIT_BYTES // 4)
        scratch = self._scratch
        total = 0
        for at in range(0, half, _CHUNK_WORDS):
            count = min(_CHUNK_WORDS, half - at)
            key_at = slide + at
            left, right, product = scratch.left[:count], scratch.right[:count], scratch.product[:count]
            np.add(words[at : at + count], self._key[key_at : key_at + count], out=left)
            key_at += self._second
            np.add(words[half + at : half + at + count], self._key[key_at : key_at + count], out=right)
            np.multiply(left, right, out=product, dtype=np.int64)
            total += int(np.add.reduce(product))
        return (total + len(window) * _LENGTH_FACTOR) % _MODULUS

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)


class _Scratch(threading.local):
    """Memory for what lies between the steps, used again by its thread."""

    def __init__(self) -> None:
        self.left = np.empty(_CHUNK_WORDS, dtype=np.int32)
        self.right = np.empty(_CHUNK_WORDS, dtype=np.int32)
        self.product = np.empty(_CHUNK_WORDS, dtype=np.int64)
