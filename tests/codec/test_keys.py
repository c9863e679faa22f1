"""Keys derived from the master key."""

from __future__ import annotations

from itertools import combinations, product
from typing import get_args

from mlsync.codec.keys import Keys, Purpose, derive

MASTER, REPOSITORY = bytes(range(32)), bytes(range(16))


def test_derive_is_hkdf_sha256():
    """Keys are HKDF-SHA-256: test case 1 of RFC 5869 comes out."""
    key = derive(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert key.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_no_two_purposes_share_a_key():
    """Every purpose, context, repository and master key has its own key."""
    all_keys = [Keys(MASTER, REPOSITORY), Keys(MASTER, bytes(16)), Keys(bytes(32), REPOSITORY)]
    contexts = [b"", bytes(16), bytes(15) + b"\1", bytes(32)]
    made = [keys.of(purpose, context) for keys, purpose, context in product(all_keys, get_args(Purpose), contexts)]
    assert all(one != other for one, other in combinations(made, 2))
    assert {len(key) for key in made} == {32}


def test_a_context_cannot_turn_one_purpose_into_another():
    """No purpose's words are the beginning of another's, so no context makes two infos the same."""
    for one, other in product(get_args(Purpose), repeat=2):
        assert one == other or not one.startswith(other)


def test_repr_shows_no_secret():
    """A key that is printed by accident shows the repository and nothing else."""
    shown = repr(Keys(MASTER, REPOSITORY))
    assert REPOSITORY.hex() in shown
    assert MASTER.hex() not in shown
    assert repr(MASTER) not in shown
