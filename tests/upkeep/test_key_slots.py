"""Key slots are listed, added and removed so that the repository always opens with one of them."""

from __future__ import annotations

import pytest

from doubles.faulty_store import Fault, FaultyStore, ProcessDied
from doubles.memory_store import MemoryStore
from mlsync.errors import (
    Error,
    KeySlotDamaged,
    KeySlotInUse,
    KeySlotKept,
    KeySlotMissing,
    KeySlotsFull,
    StoreDenied,
    StoreUnavailable,
    WrongPassphrase,
)
from mlsync.repository import names
from mlsync.repository.keys.keyslot import KeyFile, Passphrase, RecoveryKey, Stretching
from mlsync.repository.repository import Repository
from mlsync.store.directory.store import DirectoryStore
from mlsync.upkeep import key_slots
from mlsync.upkeep.key_slots import add_slot, change_slot, list_slots, new_recovery_key, remove_slot, slots_now

FAST = Stretching(64, 1, 1)
OLD, NEW = Passphrase(b"the old passphrase"), Passphrase(b"the new passphrase")
KEY_FILE, PAPER = KeyFile(bytes(range(40))), RecoveryKey(bytes(range(32)))


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    """Slots that cost nothing to open."""
    monkeypatch.setattr(key_slots, "Stretching", lambda: FAST)


@pytest.fixture
def store():
    store = MemoryStore()
    Repository.create(store, OLD, stretching=FAST)
    return store


def opens(store, unlock):
    """Whether the repository opens with that."""
    try:
        Repository.open(store, unlock)
    except WrongPassphrase:
        return False
    return True


def change(repository, unlock):
    """A change that begins now."""
    return change_slot(repository, unlock, slots_now(repository))


@pytest.mark.parametrize("unlock", [NEW, KEY_FILE, PAPER], ids=["passphrase", "key file", "recovery key"])
def test_an_added_slot_opens_beside_the_others(store, unlock):
    """What is added opens the repository, and what opened it before still does."""
    slot_id = add_slot(Repository.open(store, OLD), unlock)
    assert opens(store, OLD)
    opened = Repository.open(store, unlock)
    assert opened.slot == f"keys/{slot_id}"
    assert opened.keys == Repository.open(store, OLD).keys
    assert [one.slot.kind for one in list_slots(opened)][1:] == [
        {NEW: "passphrase", KEY_FILE: "key-file", PAPER: "recovery-key"}[unlock]
    ]
    assert [one.is_used for one in list_slots(opened)] == [False, True]


def test_kinds_do_not_open_each_other(store):
    """The bytes of a recovery key, given as a key file or a passphrase, open nothing."""
    add_slot(Repository.open(store, OLD), PAPER)
    assert not opens(store, KeyFile(PAPER.secret))
    assert not opens(store, Passphrase(PAPER.secret))
    assert not opens(store, RecoveryKey(bytes(32)))


def test_a_new_recovery_key_is_new():
    """Each one has 32 random bytes of its own, which its repr does not show."""
    one, other = new_recovery_key(), new_recovery_key()
    assert (len(one.secret), one == other) == (32, False)
    assert repr(one) == "RecoveryKey(...)"


def test_a_removed_slot_opens_nothing(store):
    """After its removal a passphrase opens nothing, and the one that removed it still does."""
    add_slot(Repository.open(store, OLD), NEW)
    repository = Repository.open(store, NEW)
    (old_id,) = [one.id for one in list_slots(repository) if not one.is_used]
    assert remove_slot(repository, old_id[:8].upper()) == old_id
    assert (opens(store, OLD), opens(store, NEW)) == (False, True)


def test_the_slot_that_opened_is_not_removed(store):
    """Whoever removes slots keeps the one by which he came in, even if there are others."""
    add_slot(Repository.open(store, OLD), NEW)
    for unlock in (OLD, NEW):
        repository = Repository.open(store, unlock)
        with pytest.raises(KeySlotInUse, match="so it stays"):
            remove_slot(repository, repository.slot.rpartition("/")[2])
    assert opens(store, OLD)
    assert opens(store, NEW)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("", "is too short"),
        ("000", "is too short"),
        ("0000", "there is no key slot '0000'"),
        ("aaaa", "2 key slots begin with 'aaaa'"),
        ("../..", "there is no key slot"),
    ],
)
def test_only_a_slot_that_is_meant_is_removed(store, wanted, words):
    """An id that names no slot, or several, removes none."""
    for last in "01":
        store.put(f"keys/{'a' * 31}{last}", b"planted")
    before = list(store.list(names.KEY_SLOTS))
    with pytest.raises(KeySlotMissing, match=words):
        remove_slot(Repository.open(store, OLD), wanted)
    assert list(store.list(names.KEY_SLOTS)) == before


def test_a_change_replaces_the_slot_that_opened(store):
    """The new passphrase opens, the old one does not, and other slots stay as they are."""
    add_slot(Repository.open(store, OLD), PAPER)
    changed = change(Repository.open(store, OLD), NEW)
    assert (opens(store, OLD), opens(store, NEW), opens(store, PAPER)) == (False, True, True)
    assert changed.new_id != changed.old_id
    assert (changed.was_gone, changed.others) == (False, ())


def interrupted(root, method, nth, act):
    """Return a real directory's store in which somebody else acts before the nth call of a method."""
    store = DirectoryStore(root)
    real, calls = getattr(store, method), []

    def called(*arguments, **more):
        calls.append(arguments)
        if len(calls) == nth:
            act()
        return real(*arguments, **more)

    setattr(store, method, called)
    return store


# The first change lists its slots as it begins, to see that the passphrase is new, and once more for each step.
@pytest.mark.parametrize("begins_early", [True, False])
@pytest.mark.parametrize(
    ("method", "nth"), [("put", 1), ("delete", 1), *(("list", nth) for nth in range(1, 7))], ids=str
)
def test_two_changes_at_once_are_told(tmp_path, method, nth, begins_early):
    """If both new passphrases open, one of the changes names the slot of the other, or says that the old one was gone.

    The second change, which opened the repository with the old passphrase, runs within the first one.
    """
    with_create = DirectoryStore(tmp_path / "r", create=True)
    Repository.create(with_create, OLD, stretching=FAST)
    other = Repository.open(DirectoryStore(tmp_path / "r"), OLD)
    early, told = slots_now(other), []

    def act():
        told.append(change_slot(other, PAPER, early if begins_early else slots_now(other)))

    mine = Repository.open(DirectoryStore(tmp_path / "r"), OLD)
    mine.store = interrupted(tmp_path / "r", method, nth, act)
    told.insert(0, change(mine, NEW))
    first, second = told
    assert (opens(with_create, OLD), opens(with_create, NEW), opens(with_create, PAPER)) == (False, True, True)
    named = [one.id for one in first.others] == [second.new_id] or [one.id for one in second.others] == [first.new_id]
    assert named or first.was_gone or second.was_gone
    times = {one.id: one.modified_s for one in list_slots(Repository.open(with_create, NEW))}
    assert all(times[one.id] == one.modified_s for one in (*first.others, *second.others))


def test_a_change_that_begins_beside_a_nearly_finished_one_finds_the_old_slot_gone(tmp_path):
    """A change that lists the slots after the other one added its own cannot name that one: the old slot was gone."""
    store = DirectoryStore(tmp_path / "r", create=True)
    Repository.create(store, OLD, stretching=FAST)
    late = Repository.open(DirectoryStore(tmp_path / "r"), OLD)
    begun = []
    mine = Repository.open(store, OLD)
    mine.store = interrupted(tmp_path / "r", "delete", 1, lambda: begun.append(slots_now(late)))
    assert change(mine, NEW).others == ()
    second = change_slot(late, PAPER, begun[0])
    assert (second.was_gone, second.others) == (True, ())


def test_slots_that_were_there_are_not_named(store):
    """Slots that others added before the change began, or long ago, are no news."""
    add_slot(Repository.open(store, OLD), PAPER)
    add_slot(Repository.open(store, OLD), KEY_FILE)
    assert change(Repository.open(store, OLD), NEW).others == ()


@pytest.mark.parametrize("unlock", [OLD, PAPER], ids=["the same", "another slot's"])
def test_what_opens_already_gets_no_second_slot(store, unlock):
    """A secret that opens the repository is refused: a second slot would outlive the removal of the first."""
    add_slot(Repository.open(store, OLD), PAPER)
    before = list(store.list(names.KEY_SLOTS))
    for act in (add_slot, change):
        with pytest.raises(KeySlotInUse, match="already; nothing was added"):
            act(Repository.open(store, OLD), unlock)
    assert list(store.list(names.KEY_SLOTS)) == before


def test_no_slot_is_added_that_readers_would_not_try(store):
    """Readers try 64 slots, whoever put them there: one more is refused, with nothing changed."""
    for number in range(63):
        store.put(f"keys/{number:032x}", b"planted")
    with pytest.raises(KeySlotsFull, match="64 key slots"):
        add_slot(Repository.open(store, OLD), NEW)
    assert len(list(store.list(names.KEY_SLOTS))) == 64
    store.delete(f"keys/{0:032x}")
    assert add_slot(Repository.open(store, OLD), NEW)
    assert opens(store, NEW)


def test_a_slot_that_does_not_come_back_is_no_slot(store):
    """Where the store changes what it was given, nothing is said to open, and the object is removed."""
    repository = Repository.open(store, OLD)

    class Lying(FaultyStore):
        def put(self, key, body):
            super().put(key, bytes(body).replace(b'"sealed": "', b'"sealed": "AAAA')[: len(bytes(body))])

    repository.store = Lying(store)
    with pytest.raises(Error):
        add_slot(repository, NEW)
    assert len(list(store.list(names.KEY_SLOTS))) == 1
    with pytest.raises(Error):
        change(repository, NEW)
    assert opens(store, OLD)


def test_a_store_that_swaps_slots_is_found(store, monkeypatch):
    """If the repository opens, but not by the slot that was added, the addition is taken back."""
    repository = Repository.open(store, OLD)
    monkeypatch.setattr(key_slots, "_refuse_second", lambda *_: None)
    with pytest.raises(KeySlotDamaged, match="does not open"):
        add_slot(repository, OLD)
    assert len(list(store.list(names.KEY_SLOTS))) == 1


def test_credentials_that_may_not_delete_leave_both(store):
    """Where the old slot cannot be removed, that is said with what to do, and both passphrases open."""
    repository = Repository.open(store, OLD)
    denied = StoreDenied("access denied")
    repository.store = FaultyStore(
        store, Fault("before", method="delete", lasts=True, error=denied, is_transient=False)
    )
    with pytest.raises(KeySlotKept, match="and so does the old one: access denied") as caught:
        change(repository, NEW)
    assert "mlsync key remove" in caught.value.advice
    assert opens(store, OLD)
    assert opens(store, NEW)
    with pytest.raises(StoreDenied):
        remove_slot(Repository(repository.store, repository.keys, slot="keys/x"), repository.slot.rpartition("/")[2])


def test_a_slot_that_is_still_there_is_not_called_removed(store):
    """A store that says "deleted" and still lists the slot, as with object lock, is believed in its listing."""
    add_slot(Repository.open(store, OLD), NEW)

    class Keeping(FaultyStore):
        def delete(self, key):
            """Say so, and do nothing."""

    repository = Repository.open(store, OLD)
    repository.store = Keeping(store)
    (other,) = [one.id for one in list_slots(repository) if not one.is_used]
    with pytest.raises(KeySlotKept, match="still has the key slot"):
        remove_slot(repository, other)


@pytest.mark.parametrize("kind", ["die-before", "die-after"])
@pytest.mark.parametrize("nth", range(1, 15))
def test_a_change_that_dies_anywhere_leaves_one_that_opens(store, kind, nth):
    """Whenever the process dies, the repository opens with the old passphrase or the new one."""
    repository = Repository.open(store, OLD)
    repository.store = FaultyStore(store, Fault(kind, nth))
    died = True
    try:
        change(repository, NEW)
        died = False
    except ProcessDied:
        pass
    assert opens(store, OLD) or opens(store, NEW)
    assert died or not opens(store, OLD)


def test_slots_that_cannot_be_read_are_listed_with_the_reason(store):
    """Damaged, newer and foreign slots are named, and keep nothing from being listed."""
    other = MemoryStore()
    Repository.create(other, NEW, stretching=FAST)
    (info,) = other.list(names.KEY_SLOTS)
    store.put(info.key, other.get(info.key, limit_bytes=4096))
    store.put(f"keys/{1:032x}", b"planted")
    store.put(f"keys/{2:032x}", b'{"mlsync": "key-slot", "format": 1, "kind": "kms"}')
    store.put("keys/readme", b"not a slot")
    listed = {one.id: one for one in list_slots(Repository.open(store, OLD))}
    assert len(listed) == 4
    assert listed[info.key[5:]].trouble == "of another repository; it opens nothing here"
    assert listed[f"{1:032x}"].trouble.startswith("the key slot does not parse")
    assert listed[f"{2:032x}"].trouble == "key slots of kind 'kms' are not known here"
    assert [one.trouble for one in listed.values() if one.is_used] == [""]


def test_a_store_that_is_away_is_an_error(store):
    """A list of slots is not shortened by an error of the store."""
    repository = Repository.open(store, OLD)
    away = StoreUnavailable("away")
    repository.store = FaultyStore(store, Fault("before", method="get", lasts=True, error=away))
    with pytest.raises(StoreUnavailable):
        list_slots(repository)
