"""A stretched passphrase that the kernel remembers: what that saves, and what it never opens."""

from __future__ import annotations

import errno
import operator
import os
import platform
import time
from pathlib import Path

import pytest
from format_parts import FAST, MASTER, PASSPHRASE, REPOSITORY_ID, new_repository

from keyring_parts import UID, need_keyring, run_python
from mlsync import kernel_keyring
from mlsync.codec.digest import object_digest
from mlsync.errors import WrongPassphrase
from mlsync.repository.keys import keyslot, remembered
from mlsync.repository.keys.keyslot import KeyFile, Passphrase
from mlsync.repository.keys.remembered import Remembered
from mlsync.repository.repository import Repository

KEPT = Remembered(600.0)
WRONG = Passphrase(b"incorrect horse battery staple")
# In a process of its own: the same slot is opened twice, and how often that stretched is printed.
OPEN_TWICE = """
from format_parts import FAST, MASTER, PASSPHRASE, REPOSITORY_ID
from mlsync.repository.keys import keyslot
from mlsync.repository.keys.remembered import Remembered
slot = keyslot.parse(keyslot.make(PASSPHRASE, MASTER, REPOSITORY_ID, os.urandom(16), FAST), "slot")
stretched = []
real = keyslot.Argon2id
keyslot.Argon2id = lambda **numbers: stretched.append(numbers) or real(**numbers)
{before}
opened = [keyslot.unwrap(slot, PASSPHRASE, Remembered(600.0)) == MASTER for _ in range(2)]
print(opened, len(stretched))
"""


class Stretchings:
    """How often a passphrase was stretched."""

    def __init__(self, monkeypatch) -> None:
        self.count = 0
        real = keyslot.Argon2id

        def counted(**numbers):
            self.count += 1
            return real(**numbers)

        monkeypatch.setattr(keyslot, "Argon2id", counted)


@pytest.fixture
def keyring(monkeypatch):
    """The kernel's keyring of this user, with names of this test's own; what it left there goes."""
    need_keyring()
    monkeypatch.setattr(remembered, "_PREFIX", f"mlsync-test {os.urandom(8).hex()} ")
    yield
    remembered.forget()


@pytest.fixture
def stretchings(monkeypatch) -> Stretchings:
    """Counts from here on, without the making of slots."""
    return Stretchings(monkeypatch)


def new_slot(unlock=PASSPHRASE) -> keyslot.Slot:
    """A slot that no other test has."""
    return keyslot.parse(keyslot.make(unlock, MASTER, REPOSITORY_ID, os.urandom(16), FAST), "slot")


def name_of(slot) -> str:
    """Under which description the kernel keeps it."""
    return remembered._description(slot.repository, object_digest(keyslot._write(slot)))


def line_of(slot) -> list[str]:
    """The kernel's line on it, in fields: id, flags, count, time left, permissions and so on."""
    (line,) = (one for one in Path("/proc/keys").read_text().splitlines() if name_of(slot) in one)
    return line.split()


@pytest.mark.usefixtures("keyring")
def test_the_second_command_does_not_stretch(monkeypatch):
    """A repository opens again without stretching, as long as the kernel remembers."""
    repository = new_repository()
    stretchings = Stretchings(monkeypatch)
    keys = [Repository.open(repository.store, PASSPHRASE, remembered=KEPT).keys for _ in range(3)]
    assert keys == [repository.keys] * 3
    assert stretchings.count == 1
    assert remembered.forget(bytes(16).hex()) == 0
    assert remembered.forget(repository.repository_id.hex()) == 1
    Repository.open(repository.store, PASSPHRASE, remembered=KEPT)
    assert stretchings.count == 2


@pytest.mark.usefixtures("keyring")
def test_nothing_is_remembered_unless_it_is_asked_for():
    """Without ``Remembered`` the kernel gets nothing, and what it has is not looked at."""
    slot = new_slot()
    assert keyslot.unwrap(slot, PASSPHRASE) == MASTER
    assert kernel_keyring.find(name_of(slot)) is None


@pytest.mark.usefixtures("keyring")
def test_a_wrong_passphrase_opens_nothing_that_is_remembered(stretchings):
    """A wrong passphrase is stretched and refused, and what the right one left stays."""
    repository = new_repository()
    Repository.open(repository.store, PASSPHRASE, remembered=KEPT)
    before = stretchings.count
    with pytest.raises(WrongPassphrase):
        Repository.open(repository.store, WRONG, remembered=KEPT)
    assert stretchings.count == before + 1
    Repository.open(repository.store, PASSPHRASE, remembered=KEPT)
    assert stretchings.count == before + 1


@pytest.mark.usefixtures("keyring")
def test_what_is_remembered_is_no_key():
    """The kernel has neither the wrapping key nor the master key nor the passphrase, only a masked key."""
    slot = new_slot()
    keyslot.unwrap(slot, PASSPHRASE, KEPT)
    wrapping = keyslot._own_wrapping_key(slot, PASSPHRASE, keyslot.base64.b64decode(slot.salt))
    kept = kernel_keyring.find(name_of(slot))
    assert len(kept) == 32
    assert kept not in (wrapping, MASTER)
    assert keyslot._opened(slot, kept) is None
    assert keyslot._opened(slot, wrapping) == MASTER


@pytest.mark.usefixtures("keyring")
def test_each_slot_has_a_mask_of_its_own():
    """What is remembered of two slots of one passphrase does not tell how their keys differ."""
    masks = set()
    for slot in (new_slot(), new_slot()):
        keyslot.unwrap(slot, PASSPHRASE, KEPT)
        wrapping = keyslot._own_wrapping_key(slot, PASSPHRASE, keyslot.base64.b64decode(slot.salt))
        masks.add(bytes(map(operator.xor, kernel_keyring.find(name_of(slot)), wrapping)))
    assert len(masks) == 2


@pytest.mark.usefixtures("keyring")
def test_the_kernel_ends_it_and_shows_it_to_nobody_else():
    """It has an end from the first moment; whoever has the user's ring may look at it, and nobody may change it."""
    slot = new_slot()
    keyslot.unwrap(slot, PASSPHRASE, KEPT)
    _, _, _, left, permissions, uid, *_ = line_of(slot)
    assert left in ("10m", "9m")
    assert permissions == "1b000000"
    assert int(uid) == os.getuid()


@pytest.mark.usefixtures("keyring")
def test_less_than_a_second_is_not_for_ever():
    """The kernel counts whole seconds, and zero would be no limit: less than one is one."""
    slot = new_slot()
    keyslot.unwrap(slot, PASSPHRASE, Remembered(0.001))
    while kernel_keyring.find(name_of(slot)) is not None:
        assert line_of(slot)[3] != "perm"
        time.sleep(0.1)
    assert keyslot.unwrap(slot, PASSPHRASE, KEPT) == MASTER


@pytest.mark.usefixtures("keyring")
@pytest.mark.parametrize("size_bytes", [1, 31, 32, 33, 1024])
def test_what_somebody_planted_is_replaced(size_bytes, stretchings):
    """A value of a wrong length or content opens nothing: the passphrase is stretched, once."""
    slot = new_slot()
    kernel_keyring.keep(name_of(slot), os.urandom(size_bytes), 600)
    before = stretchings.count
    assert [keyslot.unwrap(slot, PASSPHRASE, KEPT) for _ in range(2)] == [MASTER] * 2
    assert stretchings.count == before + 1


@pytest.mark.usefixtures("keyring")
def test_nobody_plants_a_key_for_a_slot_of_his_own():
    """Who writes into both the store and the keyring needs the passphrase too to have another master key taken."""
    his = Passphrase(b"the passphrase of somebody else")
    slot = new_slot(his)
    wrapping = keyslot._own_wrapping_key(slot, his, keyslot.base64.b64decode(slot.salt))
    for planted in (wrapping, remembered._masked(wrapping, object_digest(keyslot._write(slot)), his.secret)):
        kernel_keyring.keep(name_of(slot), planted, 600)
        assert keyslot.unwrap(slot, PASSPHRASE, KEPT) is None


@pytest.mark.usefixtures("keyring")
def test_a_slot_that_changed_is_another_one(stretchings):
    """A new slot of the same passphrase and key is stretched anew: nothing is remembered of it."""
    for expected in (1, 2):
        assert keyslot.unwrap(new_slot(), PASSPHRASE, KEPT) == MASTER
        assert stretchings.count == 2 * expected  # one of them made the slot


@pytest.mark.usefixtures("keyring")
def test_only_passphrases_are_remembered():
    """A key file is not stretched, so the kernel gets nothing of it."""
    unlock = KeyFile(bytes(range(40)))
    slot = new_slot(unlock)
    assert keyslot.unwrap(slot, unlock, KEPT) == MASTER
    assert kernel_keyring.find(name_of(slot)) is None


@pytest.mark.usefixtures("keyring")
def test_forget_leaves_what_is_not_ours():
    """Another program's key in the same ring stays."""
    kernel_keyring.keep("mlsync-test of another program", b"his", 600)
    keyslot.unwrap(new_slot(), PASSPHRASE, KEPT)
    assert remembered.forget() == 1
    assert kernel_keyring.find("mlsync-test of another program") == b"his"
    assert kernel_keyring.forget("mlsync-test of another program") == 1


@pytest.mark.usefixtures("keyring")
def test_a_service_has_what_its_user_has():
    """A process in a session of its own, as systemd gives each service, finds what this one left, and can forget it."""
    kernel_keyring.keep("mlsync-test service", b"secret", 600)
    code = "keyring_parts.new_session()\nfrom mlsync import kernel_keyring as one\n"
    done = run_python(code + "print(one.find('mlsync-test service'), one.forget('mlsync-test service'))")
    assert (done.stdout, done.stderr) == ("b'secret' 1\n", "")
    assert kernel_keyring.find("mlsync-test service") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.usefixtures("keyring")
def test_another_user_has_nothing_of_it():
    """Another user's process neither finds it nor can read it by its number."""
    slot = new_slot()
    keyslot.unwrap(slot, PASSPHRASE, KEPT)
    number = int(line_of(slot)[0], 16)
    code = "from mlsync import kernel_keyring as one\n"
    code += f"print(one.find({name_of(slot)!r}), one.forget('mlsync'))\none._read({number}, 64)\n"
    done = run_python(code, uid=UID)
    assert done.stdout == "None 0\n"
    assert "PermissionError" in done.stderr


@pytest.mark.parametrize("fault", [errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EDQUOT])
def test_where_the_kernel_refuses_passphrases_are_stretched(fault):
    """Behind a filter like a container's each opening stretches, and nothing is said."""
    done = run_python(OPEN_TWICE.format(before=f"keyring_parts.refuse_calls({fault})"))
    assert (done.stdout, done.stderr) == ("[True, True] 2\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a user with a quota of his own")
@pytest.mark.usefixtures("keyring")
def test_where_the_quota_is_full_passphrases_are_stretched():
    """A user who may have no more keys opens his repository as ever."""
    done = run_python(OPEN_TWICE.format(before="keyring_parts.fill_quota()"), uid=UID)
    assert (done.stdout, done.stderr) == ("[True, True] 2\n", "")


def test_a_processor_whose_calls_are_unknown_has_no_keyring(monkeypatch, stretchings):
    """No call is made by a number that means something else there."""
    slot = new_slot()
    monkeypatch.setattr(platform, "machine", lambda: "sparc64")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        remembered.forget()
    before = stretchings.count
    assert [keyslot.unwrap(slot, PASSPHRASE, KEPT) for _ in range(2)] == [MASTER] * 2
    assert stretchings.count == before + 2
