"""Key slots: who gets the master key, and who does not."""

from __future__ import annotations

import json

import pytest
from format_parts import FAST, MASTER, PASSPHRASE, REPOSITORY_ID, flip, keys_under, new_repository, replace_object
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from doubles.key_service import KEY, OTHER_KEY, MemoryKeyService
from doubles.memory_store import MemoryStore
from mlsync.errors import (
    ConfigInvalid,
    FormatUnsupported,
    KeyServiceRefused,
    KeyServiceUnavailable,
    KeySlotDamaged,
    ObjectDamaged,
    ObjectMissing,
    WrongPassphrase,
)
from mlsync.repository import names
from mlsync.repository.keys import keyslot, unlocking
from mlsync.repository.keys.keyslot import KeyFile, KmsKey, Passphrase, Stretching
from mlsync.repository.repository import Repository
from mlsync.store.counting import CountingStore

SALT = bytes(range(16))
KEY_FILE = KeyFile(bytes(range(100, 132)))
KMS = KmsKey(MemoryKeyService())
BODIES = {
    "passphrase": (keyslot.make(PASSPHRASE, MASTER, REPOSITORY_ID, SALT, FAST), PASSPHRASE),
    "key-file": (keyslot.make(KEY_FILE, MASTER, REPOSITORY_ID, SALT, FAST), KEY_FILE),
    "aws-kms": (keyslot.make(KMS, MASTER, REPOSITORY_ID, SALT, FAST), KMS),
}


@pytest.fixture(params=sorted(BODIES))
def slot(request):
    """The bytes of a slot of each kind and what opens it."""
    return BODIES[request.param]


def test_the_right_secret_gives_the_master_key(slot):
    """A passphrase opens a passphrase's slot, a key file a key file's."""
    body, unlock = slot
    assert keyslot.unwrap(keyslot.parse(body, "slot"), unlock) == MASTER


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=40))
def test_another_secret_does_not(secret):
    """No other secret opens a slot, nor the right bytes as the other kind of secret."""
    for body, unlock in (BODIES["passphrase"], BODIES["key-file"]):
        parsed = keyslot.parse(body, "slot")
        assert keyslot.unwrap(parsed, Passphrase(secret)) is None or secret == unlock.secret
        assert keyslot.unwrap(parsed, KeyFile(secret)) is None or secret == unlock.secret
        other = KeyFile if isinstance(unlock, Passphrase) else Passphrase
        assert keyslot.unwrap(parsed, other(unlock.secret)) is None


def test_every_changed_byte_is_found_out(slot):
    """No byte of a slot can change and the slot still open."""
    body, unlock = slot
    for offset in range(len(body)):
        try:
            opened = keyslot.unwrap(keyslot.parse(flip(offset)(body), "slot"), unlock)
        except (KeySlotDamaged, FormatUnsupported):
            continue
        assert opened is None, f"byte {offset}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repository", "00" * 16),
        ("salt", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("memory_kib", 72),
        ("iterations", 2),
        ("lanes", 2),
        ("sealed", "A" * 64),
    ],
)
def test_every_field_is_bound(field, value):
    """A slot of which one field is another's, well-formed, does not open."""
    fields = json.loads(BODIES["passphrase"][0]) | {field: value}
    assert keyslot.unwrap(keyslot.parse(_written(fields), "slot"), PASSPHRASE) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_kib", (1 << 20) + 1),
        ("memory_kib", 1 << 63),
        ("iterations", 65),
        ("lanes", 65),
        ("lanes", -1),
        ("iterations", -(1 << 40)),
    ],
)
def test_hostile_costs_are_refused_before_they_are_spent(field, value, monkeypatch):
    """A slot that asks for more memory or time than any of ours is refused without a call to Argon2."""
    monkeypatch.setattr(keyslot, "Argon2id", None)
    with pytest.raises(KeySlotDamaged, match="more memory or time"):
        keyslot.parse(_written(json.loads(BODIES["passphrase"][0]) | {field: value}), "slot")


@pytest.mark.parametrize(("field", "value"), [("iterations", 0), ("lanes", 0), ("memory_kib", 7)])
def test_costs_that_argon2_refuses_are_damage(field, value):
    """Numbers below what Argon2 takes are the slot's damage, not a crash."""
    parsed = keyslot.parse(_written(json.loads(BODIES["passphrase"][0]) | {field: value}), "slot")
    with pytest.raises(KeySlotDamaged, match="out of range"):
        keyslot.unwrap(parsed, PASSPHRASE)


@pytest.mark.parametrize(
    "change",
    [
        {"salt": "AAAA"},
        {"salt": "not base64!"},
        {"salt": "ä"},
        {"sealed": "AAAA"},
        {"more": 1},
        {"mlsync": "repository"},
        {"memory_kib": "64"},
        {"format": "1"},
    ],
)
def test_what_is_not_a_slot_is_refused(change):
    """Fields of a wrong length or type, or fields that no slot has, are damage."""
    with pytest.raises(KeySlotDamaged):
        keyslot.parse(_written(json.loads(BODIES["passphrase"][0]) | change), "slot")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 2}, "format 2"), ({"kind": "kms", "key": "arn"}, "kind 'kms'")],
)
def test_what_is_newer_is_refused_by_name(change, message):
    """A newer format, and a newer kind of slot, are no damage."""
    body = json.dumps(json.loads(BODIES["passphrase"][0]) | change).encode()
    with pytest.raises(FormatUnsupported, match=message):
        keyslot.parse(body, "slot")


def test_a_short_key_file_is_refused():
    """A key file that could be a password is not taken: it is not stretched."""
    with pytest.raises(ConfigInvalid, match="at least 32"):
        keyslot.make(KeyFile(bytes(31)), MASTER, REPOSITORY_ID, SALT, FAST)


def test_secrets_are_not_shown():
    """Printed by accident, neither a passphrase nor a key file shows."""
    assert "horse" not in repr(PASSPHRASE)
    assert repr(KEY_FILE.secret) not in repr(KEY_FILE)


def test_the_standard_cost_is_rfc_9106s():
    """Whoever makes a slot without asking gets RFC 9106's second recommended setting."""
    assert Stretching() == Stretching(memory_kib=64 << 10, iterations=3, lanes=4)


def test_every_slot_opens_the_repository():
    """With two slots, the passphrase and the key file give the same keys."""
    repository = _with_two_slots()
    for unlock in (PASSPHRASE, KEY_FILE):
        assert Repository.open(repository.store, unlock).keys == repository.keys


def test_nobody_else_opens_the_repository():
    """A wrong passphrase and a wrong key file are each named for what they are."""
    store = _with_two_slots().store
    with pytest.raises(WrongPassphrase, match="passphrase"):
        Repository.open(store, Passphrase(b"wrong"))
    with pytest.raises(WrongPassphrase, match="key file"):
        Repository.open(store, KeyFile(bytes(32)))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"",
        lambda body: body + b" " * keyslot.SLOT_BYTES_MAX,
        lambda body: body.replace(b'"format": 1', b'"format": 7'),
        lambda body: body.replace(b'"kind": "', b'"kind": "x'),
        flip(-20),
    ],
)
@pytest.mark.parametrize("unlock", [PASSPHRASE, KEY_FILE])
def test_one_bad_slot_locks_nobody_else_out(change, unlock):
    """Whatever is wrong with one slot, damaged, overlong or newer, who holds the other one gets in."""
    repository = _with_two_slots()
    kind = b"key-file" if unlock is PASSPHRASE else b"passphrase"
    for key in keys_under(repository.store, names.KEY_SLOTS):
        replace_object(repository.store, key, lambda body: change(body) if kind in body else body)
    assert Repository.open(repository.store, unlock).keys == repository.keys


def test_a_damaged_slot_is_named():
    """Where the only slot is damaged, that is what is said, and not that the passphrase is wrong."""
    store = new_repository().store
    replace_object(store, keys_under(store, names.KEY_SLOTS)[0], lambda body: body[:-9])
    with pytest.raises(KeySlotDamaged, match="keys/"):
        Repository.open(store, PASSPHRASE)


def test_a_slot_of_another_repository_opens_nothing():
    """A slot that lies in the wrong repository is passed over, though its passphrase is right, and that is said."""
    mine, other = new_repository(), new_repository()
    for key in keys_under(mine.store, names.KEY_SLOTS):
        mine.store.delete(key)
    with pytest.raises(ObjectMissing):
        Repository.open(mine.store, PASSPHRASE)
    key = keys_under(other.store, names.KEY_SLOTS)[0]
    mine.store.put(key, other.store.get(key, limit_bytes=4096))
    with pytest.raises(ObjectDamaged, match="no key slot is of this repository"):
        Repository.open(mine.store, PASSPHRASE)


@pytest.mark.parametrize("unlock", [PASSPHRASE, KEY_FILE])
def test_the_slot_that_opened_before_is_asked_alone(unlock):
    """Who knows its slot needs the header, that slot, the listing of features, and whether the key was rotated."""
    repository = _with_two_slots()
    slot = Repository.open(repository.store, unlock).slot
    counted = CountingStore(repository.store)
    again = Repository.open(counted, unlock, likely_slot=slot)
    assert (again.keys, again.slot) == (repository.keys, slot)
    assert counted.calls == {"get": 2, "list": 1, "stat": 1}


def _gone(store, key):
    store.delete(key)


def _damaged(store, key):
    replace_object(store, key, flip(-20))


def _of_another_repository(store, key):
    other = new_repository().store
    body = other.get(keys_under(other, names.KEY_SLOTS)[0], limit_bytes=4096)
    replace_object(store, key, lambda _: body)


@pytest.mark.parametrize("happened", [_gone, _damaged, _of_another_repository, lambda store, key: None])
def test_a_slot_that_does_not_open_any_more_is_passed_over(happened):
    """Whatever became of the slot that is tried first, or if it is another's, the others are tried as ever."""
    repository = _with_two_slots()
    slot = Repository.open(repository.store, PASSPHRASE).slot
    happened(repository.store, slot)
    assert Repository.open(repository.store, KEY_FILE, likely_slot=slot).keys == repository.keys


@pytest.mark.parametrize("name", ["", "repository", "keys/", "keys/../repository", "keys/" + "0" * 31])
def test_only_a_slots_name_is_tried(name):
    """The store is not asked for what the name of no slot can be."""
    repository = new_repository()
    counted = CountingStore(repository.store)
    assert Repository.open(counted, PASSPHRASE, likely_slot=name).keys == repository.keys
    assert counted.calls == {"get": 2, "list": 2, "stat": 1}


@pytest.fixture
def tried(monkeypatch):
    """The slots that are tried, each of them in no time."""
    tried, real = [], keyslot.unwrap

    def unwrap(slot, unlock, _remembered):
        tried.append(slot)
        return real(slot, unlock) if slot.memory_kib == FAST.memory_kib else None

    monkeypatch.setattr(keyslot, "unwrap", unwrap)
    return tried


def planted(repository, numbers, stretching):
    """Have slots that nobody can open beside the others, newer ones with higher numbers."""
    body = keyslot.make(Passphrase(b"nobody's"), MASTER, repository.repository_id, SALT, FAST)
    fields = json.loads(body) | {
        "memory_kib": stretching.memory_kib,
        "iterations": stretching.iterations,
        "lanes": stretching.lanes,
    }
    for number in numbers:
        repository.store.put(names.key_slot(number.to_bytes(16, "big")), _written(fields))


def cost_of(tried):
    """What trying cost."""
    return sum(keyslot.cost_of(slot, PASSPHRASE) for slot in tried)


def test_the_cheapest_slot_is_tried_first(tried):
    """Planted slots that cost a GiB each are not even tried by who has the right passphrase."""
    repository = new_repository()
    planted(repository, range(3), Stretching(1 << 20, 64, 64))
    Repository.open(repository.store, PASSPHRASE)
    assert [slot.memory_kib for slot in tried] == [FAST.memory_kib]


@pytest.mark.parametrize("stretching", [Stretching(1 << 20, 1, 4), Stretching(), Stretching(512, 64, 64)])
def test_the_cost_of_all_slots_is_bounded(tried, stretching):
    """A wrong passphrase costs no more than so many slots of ours, whatever was planted, and it is said."""
    repository = new_repository()
    planted(repository, range(300), stretching)
    with pytest.raises(WrongPassphrase, match=r"left out.*planted"):
        Repository.open(repository.store, Passphrase(b"wrong"))
    assert 0 < cost_of(tried) <= 64 * 3 * ((64 << 10) + 4 * 64)
    assert len(tried) <= unlocking.SLOTS_MAX


def test_one_slot_is_tried_whatever_it_costs(tried):
    """A slot that costs more than the sum is tried where there is no other."""
    store = new_repository().store
    (key,) = keys_under(store, names.KEY_SLOTS)
    dear = {"memory_kib": 1 << 20, "iterations": 64, "lanes": 64}
    replace_object(store, key, lambda body: _written(json.loads(body) | dear))
    with pytest.raises(WrongPassphrase):
        Repository.open(store, PASSPHRASE)
    assert [slot.memory_kib for slot in tried] == [1 << 20]


def test_slots_that_were_planted_later_lock_nobody_out(monkeypatch):
    """However many there are, cheap and first by their names, the one that was there before them opens."""
    repository = new_repository()
    planted(repository, range(200), Stretching(8, 1, 1))
    store = repository.store
    (own,) = [key for key in keys_under(store, names.KEY_SLOTS) if not key.startswith("keys/" + "0" * 20)]
    real = store.list
    aged = lambda *args, **options: (  # noqa: E731
        replace(info, modified_s=float(info.key != own)) for info in real(*args, **options)
    )
    monkeypatch.setattr(store, "list", aged)
    counted = CountingStore(store)
    assert Repository.open(counted, PASSPHRASE).slot == own
    assert counted.calls["get"] <= 1 + unlocking.SLOTS_MAX


def test_a_key_file_costs_nothing_on_any_slot(tried):
    """Slots for passphrases are no hindrance to who holds a key file, whatever they cost."""
    repository = _with_two_slots()
    planted(repository, range(1, 60), Stretching(1 << 20, 64, 64))
    with pytest.raises(WrongPassphrase):
        Repository.open(repository.store, KEY_FILE)
    assert len(tried) == 61


# ---------------------------------------------------------------- AWS KMS


def kms_repository(service, *, slots=1):
    """A repository with a passphrase and *slots* of a key of KMS, without what the requests for them left."""
    repository = new_repository()
    for number in range(slots):
        salt = number.to_bytes(16, "big")
        body = keyslot.make(KmsKey(service), repository.keys.master, repository.repository_id, salt, FAST)
        repository.store.put(names.key_slot((number + 1).to_bytes(16, "big")), body)
    return repository


def kms_slots(store):
    """The names of the slots of KMS."""
    return [key for key in keys_under(store, names.KEY_SLOTS) if b"aws-kms" in store.get(key, limit_bytes=4096)]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("repository", "00" * 16),
        ("salt", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("sealed", "A" * 64),
        ("key", OTHER_KEY),
        ("wrapped", "AAAA"),
    ],
)
def test_every_field_of_a_slot_of_kms_is_bound(field, value):
    """A slot of KMS of which one field is another's opens with neither key."""
    parsed = keyslot.parse(_written(json.loads(BODIES["aws-kms"][0]) | {field: value}), "slot")
    other = MemoryKeyService(OTHER_KEY)
    other.kept = dict(KMS.service.kept)
    assert keyslot.unwrap(parsed, KMS) is None
    assert keyslot.unwrap(parsed, KmsKey(other)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"key": ""},
        {"key": "alias/training"},
        {"key": KEY + "\n"},
        {"key": KEY.replace("key/", "key/../")},
        {"key": KEY.replace("eu-central-1", "\x1b[2J")},
        {"key": KEY.replace("111122223333", "1")},
        {"key": KEY + "1" * 64},
        {"key": 7},
        {"wrapped": ""},
        {"wrapped": "AA"},
        {"wrapped": "A" * 1368},
        {"lanes": 1},
    ],
)
def test_what_no_slot_of_kms_can_say_is_damage(change):
    """A key that is no ARN, and a wrapped secret out of bounds, are refused before KMS hears of them."""
    with pytest.raises(KeySlotDamaged):
        keyslot.parse(_written(json.loads(BODIES["aws-kms"][0]) | change), "slot")


@pytest.mark.parametrize("kind", ["passphrase", "key-file"])
@pytest.mark.parametrize("change", [{"key": KEY}, {"wrapped": "AAAA"}, {"key": "", "wrapped": ""}])
def test_other_slots_have_nothing_of_kms(kind, change):
    """What belongs to KMS is damage in another slot, also where it is empty: a slot has one encoding."""
    with pytest.raises(KeySlotDamaged, match="does not parse"):
        keyslot.parse(_written(json.loads(BODIES[kind][0]) | change), "slot")


def test_the_context_names_the_slot():
    """KMS binds the secret to this repository and this slot, and hears nothing else of them."""
    slot = keyslot.parse(BODIES["aws-kms"][0], "slot")
    assert slot.context() == {
        "mlsync": "key-slot",
        "repository": REPOSITORY_ID.hex(),
        "salt": "AAECAwQFBgcICQoLDA0ODw==",
    }
    assert [context for _, context in KMS.service.kept.values()] == [slot.context()]


def test_kms_never_gets_the_master_key():
    """What KMS wraps is another secret for each slot, and nothing of the master key."""
    service = MemoryKeyService()
    repository = kms_repository(service, slots=2)
    secrets = [secret for secret, _ in service.kept.values()]
    assert len(set(secrets)) == 2
    assert repository.keys.master not in secrets
    assert Repository.open(repository.store, KmsKey(service)).keys == repository.keys


def test_only_slots_of_the_key_are_asked_about():
    """Slots of other keys, of other repositories and of other kinds cost no request."""
    service, other = MemoryKeyService(), MemoryKeyService(OTHER_KEY)
    repository = kms_repository(service)
    for number, (key, repository_id) in enumerate(((other, repository.repository_id), (service, bytes(16)))):
        body = keyslot.make(KmsKey(key), MASTER, repository_id, SALT, FAST)
        repository.store.put(names.key_slot(bytes([number + 200]) * 16), body)
    assert Repository.open(repository.store, KmsKey(service)).keys == repository.keys
    assert len(service.asked) == 1
    assert other.asked == []
    with pytest.raises(WrongPassphrase, match="this key of AWS KMS opens no key slot"):
        Repository.open(repository.store, KmsKey(MemoryKeyService(OTHER_KEY)))


def test_a_passphrase_asks_no_kms():
    """Who opens with a passphrase needs no KMS, whatever slots there are."""
    service = MemoryKeyService()
    repository = kms_repository(service)
    assert Repository.open(repository.store, PASSPHRASE).keys == repository.keys
    assert service.asked == []


def planted_for_kms(repository, numbers):
    """Have slots that claim the key of KMS, and that nobody wrapped."""
    for number in numbers:
        fields = json.loads(BODIES["aws-kms"][0]) | {
            "repository": repository.repository_id.hex(),
            "wrapped": "AAA" + "ABCDEFGH"[number % 8] * 1,
        }
        repository.store.put(names.key_slot(number.to_bytes(16, "big")), _written(fields))


def test_requests_to_kms_are_bounded():
    """However many slots claim the key, KMS is asked eight times, and the message says that some were left out."""
    repository = new_repository()
    planted_for_kms(repository, range(60))
    service = MemoryKeyService()
    with pytest.raises(WrongPassphrase, match=r"52 key slots were left out.*planted"):
        Repository.open(repository.store, KmsKey(service))
    assert len(service.asked) == unlocking.SERVICE_REQUESTS_MAX


def test_the_slot_of_kms_that_opened_before_is_asked_alone():
    """Who knows its slot asks KMS once, whatever else was planted before it."""
    service = MemoryKeyService()
    repository = kms_repository(service)
    (own,) = kms_slots(repository.store)
    planted_for_kms(repository, range(100, 160))
    opened = Repository.open(repository.store, KmsKey(service), likely_slot=own)
    assert (opened.keys, opened.slot, len(service.asked)) == (repository.keys, own, 1)


def test_slots_that_were_planted_later_cost_kms_nothing(monkeypatch):
    """The oldest slot is asked about first, and it opens."""
    service = MemoryKeyService()
    repository = kms_repository(service)
    store = repository.store
    (own,) = kms_slots(store)
    planted_for_kms(repository, range(100, 160))
    real = store.list
    aged = lambda *args, **options: (  # noqa: E731
        replace(info, modified_s=float(info.key != own)) for info in real(*args, **options)
    )
    monkeypatch.setattr(store, "list", aged)
    assert Repository.open(store, KmsKey(service)).slot == own
    assert len(service.asked) == 1


@pytest.mark.parametrize("kind", [KeyServiceRefused, KeyServiceUnavailable])
@pytest.mark.parametrize("is_known", [True, False])
def test_what_kms_says_is_what_is_told(kind, is_known):
    """A denial, or KMS away, is the error, and not a wrong key nor a fault that somebody planted."""
    service = MemoryKeyService()
    repository = kms_repository(service)
    (own,) = kms_slots(repository.store)
    repository.store.put(names.key_slot(b"\xff" * 16), b"planted")
    service.refusal = kind("said KMS")
    with pytest.raises(kind, match="said KMS"):
        Repository.open(repository.store, KmsKey(service), likely_slot=own if is_known else None)
    assert len(service.asked) == (2 if is_known and kind is KeyServiceRefused else 1)


def test_kms_away_is_asked_once():
    """With several slots of the key, each try of which may take seconds, the first one ends it; a denial does not."""
    service = MemoryKeyService()
    repository = kms_repository(service, slots=3)
    service.refusal = KeyServiceUnavailable("away")
    with pytest.raises(KeyServiceUnavailable):
        Repository.open(repository.store, KmsKey(service))
    assert len(service.asked) == 1
    service.refusal = KeyServiceRefused("denied")
    with pytest.raises(KeyServiceRefused):
        Repository.open(repository.store, KmsKey(service))
    assert len(service.asked) == 4


@pytest.mark.parametrize("is_known", [True, False])
def test_who_may_only_wrap_locks_nobody_out(is_known):
    """A slot that opens, with a master key of somebody who may have KMS wrap secrets, is passed over."""
    service = MemoryKeyService()
    repository = kms_repository(service)
    body = keyslot.make(KmsKey(service), bytes(32), repository.repository_id, SALT, FAST)
    planted = names.key_slot(bytes(16))
    repository.store.put(planted, body)
    opened = Repository.open(repository.store, KmsKey(service), likely_slot=planted if is_known else None)
    assert (opened.keys, opened.slot != planted) == (repository.keys, True)


def test_a_slot_that_opens_with_another_master_key_is_told():
    """If no slot has the header's master key, the header is at fault, or all slots are; it is no wrong key."""
    service = MemoryKeyService()
    repository = new_repository()
    body = keyslot.make(KmsKey(service), bytes(32), repository.repository_id, SALT, FAST)
    repository.store.put(names.key_slot(bytes(16)), body)
    with pytest.raises(ObjectDamaged, match="the header was changed"):
        Repository.open(repository.store, KmsKey(service))


def test_kms_away_ends_the_search_without_a_header():
    """Planted slots of many repositories do not make a repair ask a KMS that is away once for each of them."""
    service = MemoryKeyService()
    repository = kms_repository(service)
    for number in range(1, 20):
        body = keyslot.make(KmsKey(service), MASTER, bytes([number]) * 16, SALT, FAST)
        repository.store.put(names.key_slot(bytes([number + 100]) * 16), body)
    service.refusal = KeyServiceUnavailable("away")
    with pytest.raises(KeyServiceUnavailable):
        Repository.without_header(repository.store, KmsKey(service))
    assert len(service.asked) == 1


def test_no_slot_is_stored_if_kms_refuses():
    """A repository that is to be made with a key that KMS refuses is not made."""
    service, store = MemoryKeyService(), MemoryStore()
    service.refusal = KeyServiceRefused("denied")
    with pytest.raises(KeyServiceRefused):
        Repository.create(store, KmsKey(service))
    assert list(store.list("")) == []


def _with_two_slots():
    repository = new_repository()
    body = keyslot.make(KEY_FILE, repository.keys.master, repository.repository_id, SALT, FAST)
    repository.store.put(names.key_slot(bytes(16)), body)
    return repository


def _written(fields):
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"
