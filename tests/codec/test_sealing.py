"""Sealing: AES-256-GCM, and everything that must not open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsync.codec.sealing import NONCE_BYTES, TAG_BYTES, Seal, SealBroken

KEY = bytes(range(32))


def test_sealing_is_aes_256_gcm():
    """Test case 14 of the GCM specification comes out."""
    sealed = Seal(bytes(32)).seal(bytes(12), bytes(16), b"")
    assert sealed.hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"


@given(st.binary(max_size=300), st.binary(max_size=40), st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES))
def test_what_is_sealed_opens(plain, bound, nonce):
    """Both ways of sealing give the same bytes, and both ways of opening give the plain ones back."""
    seal = Seal(KEY)
    into = bytearray(b"\xee" * (len(plain) + TAG_BYTES + 5))
    assert seal.seal_into(nonce, plain, bound, memoryview(into)) == len(plain) + TAG_BYTES
    sealed = bytes(into[: len(plain) + TAG_BYTES])
    assert into[len(sealed) :] == b"\xee" * 5
    assert sealed == seal.seal(nonce, plain, bound)
    opened = bytearray(len(plain))
    seal.open_into(nonce, sealed, bound, memoryview(opened))
    assert opened == plain == seal.open(nonce, sealed, bound)


@given(st.binary(min_size=1, max_size=60), st.data())
def test_nothing_else_opens(plain, data):
    """One bit of key, nonce, bound bytes or sealed bytes changed, or a byte cut off or added: it does not open."""
    parts = {
        "key": KEY,
        "nonce": bytes(12),
        "bound": b"place 7",
        "sealed": Seal(KEY).seal(bytes(12), plain, b"place 7"),
    }
    which = data.draw(st.sampled_from(sorted(parts)))
    changed = bytearray(parts[which])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    parts[which] = bytes(changed)
    _refuse(**parts, plain_bytes=len(plain))


@pytest.mark.parametrize(
    "change", [lambda sealed: sealed[:-1], lambda sealed: sealed + b"\0", lambda sealed: sealed[:9]]
)
def test_another_length_does_not_open(change):
    """Cut short, made longer, or shorter than a tag: refused, not a crash."""
    _refuse(KEY, bytes(12), b"", change(Seal(KEY).seal(bytes(12), b"0123456789", b"")), 10)


def _refuse(key, nonce, bound, sealed, plain_bytes):
    with pytest.raises(SealBroken):
        Seal(key).open(nonce, sealed, bound)
    with pytest.raises(SealBroken):
        Seal(key).open_into(nonce, sealed, bound, memoryview(bytearray(plain_bytes)))
