"""A recovery key's text: the same bytes come back, and a mistake is found in its group."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsync.repository.keys import recovery_key
from mlsync.repository.keys.recovery_key import _ALPHABET

SECRET = bytes(range(32))
TEXT = recovery_key.write(SECRET)
_SECRETS = st.binary(min_size=32, max_size=32)


def test_the_text_is_the_documents():
    """The text of known bytes never changes: papers have it."""
    expected = "000G5-40R48-0M30Q-E209P-185GZ-R38E9-1W81J-24GKJ-2GAHP-C5RR1-34D14-P70X2-3RFGE"
    assert expected == TEXT


@given(_SECRETS)
def test_what_is_written_is_read(secret):
    """Any 32 bytes come back from their text."""
    assert recovery_key.read(recovery_key.write(secret)) == (secret, [])


@pytest.mark.parametrize(
    "typed",
    [
        TEXT.lower(),
        TEXT.replace("-", " "),
        TEXT.replace("-", ""),
        f"  {TEXT}\n",
        TEXT.replace("-", "\n- "),
        TEXT.replace("0", "O").replace("1", "l"),
        TEXT.replace("0", "o").replace("1", "I"),
    ],
)
def test_people_type_it_as_they_like(typed):
    """Small letters, blanks instead of hyphens, and letters for the digits that they look like are read alike."""
    assert recovery_key.read(typed) == (SECRET, [])


@given(_SECRETS, st.integers(0, 64), st.sampled_from(_ALPHABET))
def test_a_wrong_letter_is_found_in_its_group(secret, at, letter):
    """Whatever letter is typed for another one, the group's number is named."""
    letters = recovery_key.write(secret).replace("-", "")
    typed = letters[:at] + letter + letters[at + 1 :]
    expected = [] if letter == letters[at] else [at // 5 + 1]
    _, wrong = recovery_key.read(typed)
    assert wrong == expected


@given(_SECRETS, st.integers(0, 12), st.integers(0, 4), st.integers(0, 4))
def test_letters_that_changed_places_are_found(secret, group, one, other):
    """Two letters of a group that changed places are found in it."""
    groups = [list(letters) for letters in recovery_key.write(secret).split("-")]
    letters = groups[group]
    same = letters[one] == letters[other]
    letters[one], letters[other] = letters[other], letters[one]
    assert recovery_key.read("".join(map("".join, groups)))[1] == ([] if same else [group + 1])


@given(_SECRETS, st.integers(0, 12), st.integers(0, 12))
def test_groups_that_changed_places_are_found(secret, one, other):
    """Two groups that changed places are both found: the check depends on the place."""
    groups = recovery_key.write(secret).split("-")
    groups[one], groups[other] = groups[other], groups[one]
    assert recovery_key.read("-".join(groups))[1] == ([] if one == other else sorted((one + 1, other + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "correct horse battery staple",
        TEXT[:-1],
        TEXT + "0",
        TEXT.replace("0", "U"),
        "a" * 65,
        "0" * 65,
        "ä" * 65,
        # Of another place each: all groups but one are wrong.
        "-".join(TEXT.split("-")[1:] + TEXT.split("-")[:1]),
    ],
)
def test_what_is_no_recovery_key_stays_a_passphrase(text):
    """A text of another length, of other letters, or of which most groups do not check, is none."""
    assert recovery_key.read(text) is None


def test_bits_beyond_the_key_are_a_mistake():
    """The last group's four spare bits are zero, though its check fits."""
    *groups, last = TEXT.split("-")
    digits = [_ALPHABET.index(letter) for letter in last[:4]]
    digits[3] |= 1
    changed = "".join(_ALPHABET[digit] for digit in (*digits, recovery_key._check_digit(12, digits)))
    assert recovery_key.read("-".join([*groups, changed]))[1] == [13]
