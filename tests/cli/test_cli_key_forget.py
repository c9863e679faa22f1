"""``[key] remember`` at the command line: what the kernel remembers is used, and forgotten when it is told to."""

from __future__ import annotations

import errno
import json

from keyring_parts import need_keyring, run_python
from mlsync.repository.keys.remembered import forget

USED = "the kernel remembers what a passphrase came to"


def remembering(machine, *arguments):
    """What a command did that opens with a passphrase, whose stretching the kernel remembers."""
    return machine.run(*arguments, MLSYNC_PASSPHRASE="a passphrase", MLSYNC_KEY_REMEMBER="10m")


def with_passphrase(machine):
    """The machine, whose repository a passphrase opens too."""
    (machine.base / "new").write_text("a passphrase\n")
    (machine.base / "new").chmod(0o600)
    machine.good("key", "add", "--new-passphrase-file", "new")
    return machine


def remembered_of(machine):
    """Of how many key slots of the machine's repository the kernel remembered something; now it does of none."""
    (state,) = machine.state.glob("*/state.sqlite")
    return forget(state.parent.name)


def test_a_passphrase_is_remembered_until_it_is_forgotten(saved):
    """The second command uses what the first one left; after ``key forget`` and ``key change`` there is nothing."""
    need_keyring()
    machine = with_passphrase(saved)
    assert [USED in remembering(machine, "versions", "-vv").err for _ in range(2)] == [False, True]
    assert USED not in machine.good("versions", "-vv", MLSYNC_PASSPHRASE="a passphrase").err
    # Of all repositories: this user may have more.
    assert machine.good("key", "forget", "--json").json()["forgotten"] >= 1
    assert remembered_of(machine) == 0
    assert USED not in remembering(machine, "versions", "-vv").err
    (machine.base / "new").write_text("another passphrase\n")
    assert remembering(machine, "key", "change", "--new-passphrase-file", "new").status == 0
    assert remembered_of(machine) == 0
    assert remembering(machine, "versions").status == 21


def test_doctor_says_whether_the_kernel_remembers(saved):
    """Where ``remember`` is set doctor has a line on it, and elsewhere none."""
    need_keyring()
    assert "remembered passphrase" not in saved.run("doctor", "--no-write").out
    assert "the kernel remembers it for this user" in remembering(saved, "doctor", "--no-write").out


def test_where_the_kernel_refuses_commands_work_and_doctor_says_why(saved):
    """In a container whose filter forbids the calls, all is as without ``remember``."""
    machine = with_passphrase(saved)

    def refused(*arguments):
        environ = machine.environment(MLSYNC_PASSPHRASE="a passphrase", MLSYNC_KEY_REMEMBER="10m", COLUMNS="200")
        code = f"keyring_parts.refuse_calls({errno.EPERM})\nos.environ.update({environ!r})\n"
        code += f"sys.argv = {['mlsync', *arguments]!r}\nfrom mlsync.cli.main import main\nmain()\n"
        return run_python(code)

    done = refused("versions", "-vv")
    assert done.returncode == 0
    assert "the kernel does not remember what was stretched: [Errno 1] Operation not permitted" in done.stderr
    assert refused("versions").stderr == ""
    assert "remembers nothing for this user: Operation not permitted" in refused("doctor", "--no-write").stdout
    assert json.loads(refused("key", "forget", "--json").stdout) == {"forgotten": None}


def test_a_time_that_is_none_is_refused(saved):
    """Zero would be for ever in the kernel, and a day is the most."""
    for wrong in ("0s", "25h", "ten", "-1m"):
        done = saved.run("versions", MLSYNC_KEY_REMEMBER=wrong)
        assert done.status == 2
        assert "MLSYNC_KEY_REMEMBER must be a length of time" in done.err
        assert "up to 24h" in " ".join(done.err.split())
