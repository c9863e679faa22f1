"""``--agent``: ``init`` and ``restore`` go on as the agent, and nobody types the passphrase again."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
from keyboard import Terminal
from machine import PASSPHRASE

from mlsync.cli.arguments.options import Common
from mlsync.cli.then_agent import become_agent
from mlsync.config.load import load
from mlsync.kms.key import AwsKey
from mlsync.repository.keys.keyslot import KmsKey

ASKED = re.compile("Passphrase")


@pytest.fixture
def unlocked(fresh):
    """A machine on which the passphrase is known to its user alone, with a training directory."""
    fresh.secret = {"PYTHONPATH": str(Path(__file__).with_name("at_full_speed"))}
    fresh.training.mkdir()
    (fresh.training / "results.csv").write_text("epoch,loss\n")
    yield fresh
    Terminal.leave()


def begin(machine, *more, passphrase=PASSPHRASE):
    """A person makes a repository and keeps watch; the terminal, and what it has shown until the first version."""
    terminal = Terminal(machine, "init", machine.url, "--watch", machine.training, "--agent", *more)
    shown = terminal.expect("Passphrase: ") + "Passphrase: "
    terminal.type(passphrase + "\n")
    shown += terminal.expect("Passphrase again: ") + "Passphrase again: "
    terminal.type(passphrase + "\n")
    return terminal, shown + terminal.expect("version 1 in")


def children(pid: int) -> set[int]:
    """The processes that a process started, and theirs."""
    direct = {int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return direct | {below for one in direct for below in children(one)}


def test_init_goes_on_as_the_agent(unlocked):
    """It asks for the passphrase twice, as always, makes the first version without asking again, and ends by Ctrl-C."""
    terminal, shown = begin(unlocked)
    assert len(ASKED.findall(shown)) == 2
    assert "Keeping watch now, as mlsync agent does. Ctrl-C ends it." in shown
    assert "mlsync backup" not in shown
    terminal.type("\x03")
    assert terminal.end()[0] == 0
    assert unlocked.good("versions", "--json", MLSYNC_PASSPHRASE=PASSPHRASE).json()["versions"][0]["version"] == 1


def test_the_passphrase_is_in_no_list_of_processes(unlocked):
    """Neither the arguments nor the environments of the agent and of its processes hold the passphrase."""
    terminal, _ = begin(unlocked)
    for pid in {terminal.pid, *children(terminal.pid)}:
        for name in ("cmdline", "environ"):
            assert PASSPHRASE.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    terminal.type("\x03")
    assert terminal.end()[0] == 0


def test_any_letters_arrive(unlocked):
    """What was typed opens the repository for the agent, with quotes, blanks at its ends and other letters."""
    passphrase = '  it\'s "ünïcode" $HOME \\ 火  '
    terminal, _ = begin(unlocked, passphrase=passphrase)
    terminal.type("\x03")
    assert terminal.end()[0] == 0
    unlocked.good("versions", MLSYNC_PASSPHRASE=passphrase)


def test_restore_goes_on_as_the_agent(unlocked):
    """On a machine without a configuration it is asked once, writes one, and the next change becomes a version."""
    terminal, _ = begin(unlocked)
    terminal.type("\x03")
    terminal.end()
    unlocked.configuration.unlink()
    back = unlocked.base / "back"
    terminal = Terminal(unlocked, "restore", "--repo", unlocked.url, "--to", back, "--agent")
    terminal.expect("Passphrase: ")
    terminal.type(PASSPHRASE + "\n")
    shown = terminal.expect("watching")
    assert "Passphrase" not in shown
    text = " ".join(shown.split())
    assert f"Configuration written: {unlocked.configuration}" in text
    assert "Keeping watch now, as mlsync agent does: resume the training in another terminal. Ctrl-C ends it." in text
    assert "mlsync service install" not in text
    assert str(load(unlocked.configuration).watches[0].directory) == str(back)
    (back / "results.csv").write_text("more\n")
    terminal.expect("version 2 in")
    terminal.type("\x03")
    assert terminal.end()[0] == 0


def test_a_recovery_key_opens_the_agent_too(unlocked):
    """Whoever typed a recovery key where a passphrase is asked for is not asked again either."""
    terminal, _ = begin(unlocked)
    terminal.type("\x03")
    terminal.end()
    added = unlocked.good("key", "add", "--recovery", MLSYNC_PASSPHRASE=PASSPHRASE)
    (key,) = re.findall(r"(?:[0-9A-Z]{5}-){12}[0-9A-Z]{5}", "-".join(added.out.split()).replace("--", "-")) or [""]
    assert key, added.out
    unlocked.configuration.unlink()
    back = unlocked.base / "back"
    terminal = Terminal(unlocked, "restore", "--repo", unlocked.url, "--to", back, "--agent")
    terminal.expect("Passphrase: ")
    terminal.type(key + "\n")
    terminal.expect("watching")
    (back / "results.csv").write_text("more\n")
    assert "Passphrase" not in terminal.expect("version 2 in")
    terminal.type("\x03")
    assert terminal.end()[0] == 0


def test_a_key_file_stays_where_it_is(unlocked):
    """With --key-file nothing is asked, and the agent reads the file itself."""
    key = unlocked.base / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    terminal = Terminal(unlocked, "init", unlocked.url, "--watch", unlocked.training, "--key-file", key, "--agent")
    assert "Passphrase" not in terminal.expect("version 1 in")
    terminal.type("\x03")
    assert terminal.end()[0] == 0


def test_a_key_of_kms_is_named_again(monkeypatch, tmp_path):
    """A key of KMS holds no secret: the agent gets its name and where it is as they were given, and no pipe."""
    words = []
    monkeypatch.setattr(os, "execv", lambda _program, arguments: words.extend(arguments))
    given = {"kms": "alias/a", "kms_region": "eu-central-1", "kms_endpoint_url": "https://kms", "verbose": 0}
    common = Common(**dict.fromkeys((field.name for field in dataclasses.fields(Common)), None) | given)
    become_agent(common, tmp_path, KmsKey(AwsKey("alias/a")))
    assert words[words.index("agent") + 1 :] == [
        *("--config", str(tmp_path)),
        *("--kms", "alias/a", "--kms-region", "eu-central-1", "--kms-endpoint-url", "https://kms"),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["init", "/nowhere/repository", "--agent"], "give --watch DIR"),
        (["init", "/nowhere/repository", "--watch", "train", "--agent", "--json"], "leave out --agent"),
        (["restore", "--agent", "--json"], "leave out --agent"),
        (["restore", "--agent", "results.csv"], "single paths"),
    ],
)
def test_what_does_not_go_together(saved, arguments, words):
    """An agent without a directory, with --json, or of single paths is refused with 2, before anything is done."""
    saved.configuration.unlink()
    done = saved.run(*arguments, *(["--repo", saved.url] if arguments[0] == "restore" else []))
    assert done.status == 2
    assert words in done.out + done.err
    assert not saved.configuration.exists()


def test_a_restore_that_fails_starts_no_agent(saved):
    """A fault in the store ends the restore with its own status: there is no run that could continue."""
    for pack in saved.repository.glob("packs/*/*"):
        pack.unlink()
    saved.configuration.unlink()
    done = saved.run("restore", "--repo", saved.url, "--to", saved.base / "back", "--agent")
    assert done.status not in (0, 2)
    assert "Keeping watch" not in done.out
    assert not saved.configuration.exists()
