"""``mlsync key``: the passphrases, key files, recovery keys and keys of AWS KMS that open the repository."""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from mlsync.app.secrets import accept_all, find_new_secret, refuse_weak
from mlsync.app.wording import count as counted
from mlsync.app.write_only import make_key_file, refuse_taken
from mlsync.cli import reseal
from mlsync.cli.arguments.amounts import size_of
from mlsync.cli.arguments.gently import gently_option
from mlsync.cli.arguments.options import Common, common_options
from mlsync.cli.arguments.parsing import Command, Group
from mlsync.cli.reports.json import forgotten_stretched_json, key_json, key_slots_json, resealing_json, rotation_json
from mlsync.cli.terminal import output
from mlsync.cli.terminal.table import TextTable
from mlsync.cli.write_only_key import say_write_only
from mlsync.config.model import Config, KeySettings
from mlsync.errors import CompactionRefused, ConfigInvalid
from mlsync.repository.keys import keyslot, recovery_key
from mlsync.repository.keys.keyslot import KmsKey, RecoveryKey, Unlock
from mlsync.repository.keys.remembered import forget
from mlsync.repository.repository import Repository
from mlsync.upkeep.compaction import Compacted
from mlsync.upkeep.key_slots import (
    Changed,
    SlotStatus,
    add_slot,
    change_slot,
    list_slots,
    new_recovery_key,
    remove_slot,
    slots_now,
)
from mlsync.upkeep.resealing import ResealingPlan, plan_resealing
from mlsync.upkeep.rotation import Rotated, rotate

_LIST_EXAMPLES = """\b
Examples:
  mlsync key list
  mlsync key list --repo s3://bucket/runs --json
"""
_ADD_EXAMPLES = """\b
Examples:
  mlsync key add --new-kms arn:aws:kms:eu-west-1:111122223333:key/1234-5678
  mlsync key add --write-only node-7.key
"""
_CHANGE_EXAMPLES = """\b
Examples:
  mlsync key change
  mlsync key change --new-passphrase-file new.txt
"""
_REMOVE_EXAMPLES = """\b
Examples:
  mlsync key remove 0f4ce143
  mlsync key remove 0f4ce143 --key-file other.key
"""
_EXAMPLES = """\b
Examples:
  mlsync key list
  mlsync key add --recovery
"""
_FORGET_EXAMPLES = """\b
Examples:
  mlsync key forget
  mlsync key forget --json
"""
_ROTATE_EXAMPLES = """\b
Examples:
  mlsync key rotate
  mlsync key rotate --reseal --yes
"""
_RESEAL_EXAMPLES = """\b
Examples:
  mlsync key reseal --dry-run
  mlsync key reseal --yes --gently
"""
# As many characters of an id as a table shows; enough to name a slot.
_ID_CHARS = 8

_new_passphrase_option = click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File whose first line is the new passphrase; else it is asked for, twice.",
)
_new_key_option = click.option(
    "--new-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of 32 random bytes or more that becomes a key.",
)
_new_kms_option = click.option(
    "--new-kms",
    metavar="KEY",
    help="Key of AWS KMS: ARN, id or alias/NAME; it takes kms:Encrypt and kms:Decrypt.",
)
_recovery_option = click.option(
    "--recovery", is_flag=True, help="Make a recovery key and print it once, to be kept on paper."
)
_write_only_option = click.option(
    "--write-only",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to FILE a key for a machine that is to make versions and read none.",
)
_weak_option = click.option("--allow-weak", is_flag=True, help="Accept a passphrase of fewer than 8 characters.")


@click.group("key", cls=Group, short_help="List, add and change what opens the repository.", epilog=_EXAMPLES)
def key_command() -> None:
    """Manage the key slots: each holds the master key, locked by a passphrase, a key file or another key.

    Any one of them opens the repository. docs/keys.md says what to do when a passphrase leaked or a person leaves.
    """


@key_command.command("list", cls=Command, short_help="List the key slots.", epilog=_LIST_EXAMPLES)
@common_options
def list_command(common: Common) -> None:
    """List the key slots, oldest first: id, kind, when it was made, and which one opened the repository just now."""
    with common.session(common.configuration(), common.monitor()) as session:
        slots = list_slots(session.repository)
    if common.as_json:
        common.emit(key_slots_json(slots))
        return
    _print(slots)


@key_command.command("add", cls=Command, short_help="Add a passphrase or a key.", epilog=_ADD_EXAMPLES)
@_new_passphrase_option
@_new_key_option
@_new_kms_option
@_recovery_option
@_write_only_option
@_weak_option
@common_options
def add_command(
    common: Common,
    *,
    new_passphrase_file: Path | None,
    new_key_file: Path | None,
    new_kms: str | None,
    recovery: bool,
    write_only: Path | None,
    allow_weak: bool,
) -> None:
    """Add a key slot. What opens the repository now is asked for first, then the new passphrase, twice.

    The new one counts once the repository opened with it. Everything else that opens the repository still does.
    """
    asked = KeySettings(new_passphrase_file, new_key_file, new_kms)
    wanted = _Wanted(asked, recovery=recovery, allow_weak=allow_weak, write_only=write_only)
    if write_only is not None:
        _add_write_only(common, write_only)
        return
    config = common.configuration()
    given = wanted.given(common, config)
    with common.session(config, common.monitor()) as session:
        new = given or wanted.typed()
        slot_id = add_slot(session.repository, new)
    _report(common, new, slot_id)


@key_command.command("change", cls=Command, short_help="Replace the one that is used now.", epilog=_CHANGE_EXAMPLES)
@_new_passphrase_option
@_new_key_option
@_new_kms_option
@_weak_option
@common_options
def change_command(
    common: Common,
    *,
    new_passphrase_file: Path | None,
    new_key_file: Path | None,
    new_kms: str | None,
    allow_weak: bool,
) -> None:
    """Add a key slot, and then remove the one that opened the repository for this command.

    The old passphrase opens nothing any more; other key slots stay. Agents that run go on; give each machine the new
    passphrase before its agent starts again. Who kept a copy of the repository as it was can still open that copy with
    the old passphrase.
    """
    wanted = _Wanted(KeySettings(new_passphrase_file, new_key_file, new_kms), recovery=False, allow_weak=allow_weak)
    config = common.configuration()
    given = wanted.given(common, config)
    with common.session(config, common.monitor()) as session:
        # Before a person types a passphrase, which may take minutes.
        before = slots_now(session.repository)
        new = given or wanted.typed()
        changed = change_slot(session.repository, new, before)
        _forget_stretched(session.repository)
    _report(common, new, changed.new_id, changed)
    _warn_of_others(changed)


@key_command.command("remove", cls=Command, short_help="Remove a key slot.", epilog=_REMOVE_EXAMPLES)
@click.argument("slot", metavar="ID")
@common_options
def remove_command(common: Common, slot: str) -> None:
    """Remove the key slot ID; its passphrase or key opens the repository no more.

    ID is as mlsync key list shows it. The key slot that opens the repository for this command stays, so that one always
    does: to remove it, open the repository with another one, or replace it with mlsync key change.
    """
    with common.session(common.configuration(), common.monitor()) as session:
        removed_id = remove_slot(session.repository, slot)
        _forget_stretched(session.repository)
    if common.as_json:
        common.emit(key_json(None, None, removed_id))
    elif not common.quiet:
        output.say(f"removed  {removed_id[:_ID_CHARS]}")


@key_command.command("forget", cls=Command, short_help="Forget stretched passphrases.", epilog=_FORGET_EXAMPLES)
@common_options
def forget_command(common: Common) -> None:
    """Have this machine's kernel forget what it remembers of this user's passphrases, of all repositories.

    It remembers something only where remember is set under [key], and then for that long. The next command stretches
    its passphrase again. This asks for no passphrase and no store. mlsync key change, remove and rotate do it too.
    """
    count = _forget_stretched()
    if common.as_json:
        common.emit(forgotten_stretched_json(count))
    elif not common.quiet:
        known = f"forgotten: {counted(count, 'passphrase')}" if count else "nothing was remembered"
        output.say(f"{known}: this kernel gives no keyring here" if count is None else known)


def _forget_stretched(repository: Repository | None = None) -> int | None:
    """Return how many stretched passphrases the kernel forgot, of all repositories or one; ``None`` without keyring."""
    try:
        return forget("" if repository is None else repository.repository_id.hex())
    except OSError:
        return None


@key_command.command("rotate", cls=Command, short_help="Give the repository a new master key.", epilog=_ROTATE_EXAMPLES)
@click.option(
    "--yes", is_flag=True, help="Do not ask: all other passphrases, key files and recovery keys stop working."
)
@click.option(
    "--reseal", "reseals", is_flag=True, help="Then move old packs to the new key, as mlsync key reseal does."
)
@common_options
def rotate_command(common: Common, *, yes: bool, reseals: bool) -> None:
    """Make a new master key; from now on everything is sealed with it, and whoever has the old one writes nothing more.

    The passphrase or key that opens the repository for this command opens it afterwards too; every other one stops
    working and needs mlsync key add anew, recovery keys on paper too. Without --reseal nothing that is stored is sealed
    again: who has the old master key and gets at the store still reads all that was there. Agents with another
    passphrase stop with status 29; docs/keys.md says what to do.
    """
    secrets: list[Unlock] = []
    monitor = common.monitor()
    with common.session(common.configuration(), monitor, found_secret=secrets.append) as session:
        repository = session.repository
        others = [one for one in list_slots(repository) if not one.is_used]
        # What it costs is known, and asked for, before anything is changed.
        costs = plan_resealing(repository, monitor, below=repository.keys.epoch + 1) if reseals else ResealingPlan()
        if not yes:
            _confirm_rotation(others, costs, as_json=common.as_json)
        rotated = rotate(repository, secrets[-1], monitor, host=socket.gethostname(), now_ns=time.time_ns())
        _forget_stretched(repository)
        if not (common.as_json or common.quiet):
            _print_rotated(rotated)
        _warn_of_one_slot(rotated.repository)
        planned, done = ResealingPlan(), Compacted()
        if reseals:
            planned = plan_resealing(rotated.repository, monitor)
            done = reseal.carry_out(rotated.repository, planned, monitor)
    if common.as_json:
        left = reseal.reasons(planned, done)
        resealed = resealing_json(planned, done, left, epoch=rotated.epoch, is_dry_run=False) if reseals else None
        common.emit(rotation_json(rotated, resealed))
    elif reseals and not common.quiet:
        reseal.print_done(done)
    reseal.refuse_left(common, planned, done)


@key_command.command("reseal", cls=Command, short_help="Move old packs to the newest key.", epilog=_RESEAL_EXAMPLES)
@click.option("--dry-run", is_flag=True, help="Show what it costs, and change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--max-move",
    "move_bytes",
    metavar="SIZE",
    callback=size_of,
    help="Read and write no more now, as 50GiB; the next call goes on.",
)
@common_options
@gently_option
def reseal_command(common: Common, *, dry_run: bool, yes: bool, move_bytes: int | None) -> None:
    """Move what versions need of packs under older master keys into new packs under the newest one.

    For after mlsync key rotate. Says first how much is read and written, and asks. Stopped or killed, it goes on when
    it is given again. Old packs stay until mlsync prune deletes them, after its grace period. Manifests of older
    versions stay under the old key, and with them what they say of files: docs/keys.md. Ends with 33 if something
    cannot be moved.
    """
    monitor = common.monitor()
    with common.session(common.configuration(), monitor) as session:
        repository = session.repository
        planned, done = plan_resealing(repository, monitor), Compacted()
        planned = planned if move_bytes is None else planned.within(move_bytes)
        if not common.as_json and not common.quiet:
            reseal.print_plan(planned, epoch=repository.keys.epoch)
        if not dry_run and not reseal.is_nothing(planned):
            if not yes:
                _confirm_cost(planned, as_json=common.as_json)
            done = reseal.carry_out(repository, planned, monitor)
            if not (common.as_json or common.quiet):
                reseal.print_done(done)
    if common.as_json:
        left = reseal.reasons(planned, done)
        common.emit(resealing_json(planned, done, left, epoch=repository.keys.epoch, is_dry_run=dry_run))
    reseal.refuse_left(common, planned, done)


def _confirm_cost(planned: ResealingPlan, *, as_json: bool) -> None:
    advice = "--yes moves them, --dry-run only says how much"
    if as_json or not sys.stdin.isatty():
        what = f"nothing was moved, since there is no terminal to ask on; {reseal.cost(planned)}"
        raise CompactionRefused(what, advice=advice)
    if not click.confirm("Move them?", err=True):
        raise CompactionRefused("nothing was moved", advice=advice)


def _confirm_rotation(others: list[SlotStatus], costs: ResealingPlan, *, as_json: bool) -> None:
    """Ask if key slots stop working, or much is to be moved."""
    questions = []
    if others:
        named = ", ".join(f"{one.id[:_ID_CHARS]} ({_kind(one)})" for one in others)
        questions.append(f"these key slots stop working: {named}")
    if costs.packs.packs:
        questions.append(reseal.cost(costs))
    if not questions:
        return
    if as_json or not sys.stdin.isatty():
        what = f"nothing was changed yet; {'; '.join(questions)}"
        raise ConfigInvalid(what, advice="--yes rotates the key all the same")
    for one in questions:
        output.tell(one[0].upper() + one[1:])
    if not click.confirm("Rotate the key?", err=True):
        raise ConfigInvalid("nothing was changed")


def _warn_of_one_slot(repository: Repository) -> None:
    """Say that one key slot alone opens the repository, as it does after each rotation."""
    if len(list_slots(repository)) == 1:
        output.tell(
            "warning: one key slot alone opens the repository now: if what opens it is lost, so are all versions; "
            "for a recovery key on paper: mlsync key add --recovery"
        )


def _print_rotated(rotated: Rotated) -> None:
    output.say(f"rotated  the key is of epoch {rotated.epoch} now")
    output.say(f"added    {rotated.slot_id[:_ID_CHARS]}  what opened the repository for this command still does")
    for one in rotated.removed:
        output.say(f"removed  {one.id[:_ID_CHARS]}  {_kind(one)}")
    output.say("every other machine needs a passphrase or key file anew: mlsync key add")


def _kind(one: SlotStatus) -> str:
    return "?" if one.slot is None else keyslot.noun(one.slot.kind)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the options ask for as a new secret: what *asked* names, a recovery key, or what a person types."""

    asked: KeySettings
    recovery: bool
    allow_weak: bool
    write_only: Path | None = None

    def __post_init__(self) -> None:
        asked = self.asked
        named = (asked.passphrase_file, asked.key_file, asked.kms_key, self.recovery or None, self.write_only)
        if sum(one is not None for one in named) > 1:
            advice = "give one of --new-passphrase-file, --new-key-file, --new-kms, --recovery, --write-only"
            raise ConfigInvalid("several new keys at once", advice=advice)

    def given(self, common: Common, config: Config) -> Unlock | None:
        """Return the new secret if an option names it: a fault in it shows before anybody types a passphrase."""
        if not self.asked.names_secret:
            return None
        reached = common.asked_key.over(config.key)
        return self._found(self.asked.over(reached), config.s3.profile)

    def typed(self) -> Unlock:
        """Return a recovery key, or a passphrase that a person types."""
        return new_recovery_key() if self.recovery else self._found(KeySettings(), None)

    def _found(self, asked: KeySettings, profile: str | None) -> Unlock:
        return find_new_secret(asked, profile=profile, check=accept_all if self.allow_weak else refuse_weak)


def _add_write_only(common: Common, place: Path) -> None:
    """Write the key file of a node that cannot read; no key slot is made."""
    place = Path(os.path.abspath(place))
    refuse_taken(place)
    with common.session(common.configuration(), common.monitor()) as session:
        make_key_file(session.repository, place)
    if common.as_json:
        common.emit(key_json(None, None, None, write_only_key=place))
    elif not common.quiet:
        say_write_only(place)


def _report(common: Common, new: Unlock, slot_id: str, changed: Changed | None = None) -> None:
    text = recovery_key.write(new.secret) if isinstance(new, RecoveryKey) else None
    if common.as_json:
        removed_id = None if changed is None or changed.was_gone else changed.old_id
        common.emit(key_json(slot_id, text, removed_id, () if changed is None else changed.others))
        return
    if not common.quiet:
        output.say(
            f"added    {slot_id[:_ID_CHARS]}  {keyslot.noun(keyslot.kind_of(new))}; the repository opened with it"
        )
        if changed is not None and not changed.was_gone:
            output.say(f"removed  {changed.old_id[:_ID_CHARS]}")
    if text is not None:
        _print_recovery_key(text)
    elif isinstance(new, KmsKey) and not common.quiet:
        output.say_wrapped("To open with it: kms_key under [key] in the configuration, MLSYNC_KMS_KEY, or --kms KEY.")


def _warn_of_others(changed: Changed) -> None:
    """Name what somebody else did to the key slots while the change ran."""
    if changed.was_gone:
        old = changed.old_id[:_ID_CHARS]
        output.tell(
            f"warning: somebody else removed the old key slot {old} first, perhaps by changing it too; "
            "see which key slots there are: mlsync key list"
        )
    for one in changed.others:
        name, made_ns = one.id[:_ID_CHARS], int(one.modified_s * 10**9)
        made = f"{output.moment(made_ns)} {output.zone((made_ns,))}"
        output.tell(
            f"warning: somebody else added key slot {name} during the change, at {made}; "
            f"if it should not open the repository: mlsync key remove {name}"
        )


def _print_recovery_key(text: str) -> None:
    """Print the key in lines that fit on paper, and what it is for."""
    groups = text.split("-")
    output.say()
    for start in range(0, len(groups), 5):
        output.say("    " + "-".join(groups[start : start + 5]))
    output.say()
    output.say("Write it down, and keep it away from this machine. It is shown only now, and")
    output.say("opens the repository: type it where a passphrase is asked for, in one line.")


def _print(slots: list[SlotStatus]) -> None:
    table = TextTable(("ID", "KIND", "EPOCH", f"MADE ({output.zone(map(_made_ns, slots))})"))
    for one in slots:
        remarks = (
            one.trouble or ("opened the repository just now" if one.is_used else ""),
            "" if one.slot is None else one.slot.key,
        )
        epoch = "?" if one.slot is None else str(one.slot.epoch)
        table.row(one.id[:_ID_CHARS], _kind(one), epoch, output.moment(_made_ns(one)), remarks=remarks)
    output.print_table(table)


def _made_ns(one: SlotStatus) -> int:
    return int(one.modified_s * 10**9)
