"""Where mlsync is root the command of level 5 runs as the user whose directory the run is, and sees the checkpoint."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from mlsync.proof import running
from mlsync.proof.user import cannot_change_user
from unprivileged import environment, proof_python, python_for_all

TRAINER = 4242
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or bool(cannot_change_user()), reason="this process cannot be another user"),
]
# What root has in the service, and all rights: to give files away is not among the first.
RIGHTS = {"of the service": "cap_dac_read_search,cap_setuid,cap_setgid,cap_kill", "of root": ""}


@pytest.fixture
def place():
    """Where everybody may look in, unlike what pytest makes for root."""
    with tempfile.TemporaryDirectory(prefix="mlsync-test-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def write_checkpoint(path: Path) -> None:
    import torch

    file = io.BytesIO()
    torch.save({"epoch": 1, "model": {"weight": torch.ones(100)}}, file)
    path.write_bytes(file.getvalue())
    path.chmod(0o600)


def run(place: Path, command: str, rights: str, owner: int = TRAINER) -> tuple[dict, str]:
    """Back the run up as root; return what ``show`` says of its one file, and what the command wrote."""
    python = python_for_all()
    runs, out = place / "runs", place / "out"
    runs.mkdir()
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    write_checkpoint(runs / "last.pt")
    for path in (runs / "last.pt", runs):
        os.chown(path, owner, owner)
    (place / "key").write_bytes(bytes(range(32)))
    (place / "key").chmod(0o600)
    (place / "state").mkdir(mode=0o700)
    config = place / "mlsync.toml"
    mlsync = [python, "-P", "-m", "mlsync"]
    subprocess.run(
        [*mlsync, "init", "-q", f"{place}/repository", "--config", config, "--key-file", place / "key"],
        env=environment(),
        check=True,
    )
    words = json.dumps(["sh", "-c", command, "x", "{path}", str(out)])
    config.write_text(
        f'repository = "file://{place}/repository"\nstate_directory = "{place}/state"\n'
        f'[key]\nkey_file = "{place}/key"\n[[watch]]\ndirectory = "{runs}"\n'
        f'[proof]\ndevice = "cpu"\npython = "{proof_python(place, python)}"\ncommand = {words}\n'
    )
    # Root by number, with only these rights.
    bound = ["capsh", f"--drop={_all_but(rights)}", "--", "-c", 'exec "$@"', "x"] if rights else []
    done = subprocess.run(
        [*bound, *mlsync, "backup", "--quickly", "--config", config],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = subprocess.run(
        [*mlsync, "show", "--json", "--config", config], env=environment(), capture_output=True, text=True, check=True
    )
    written = (out / "said").read_text() if (out / "said").exists() else ""
    return next(file for file in json.loads(shown.stdout)["entries"] if file["path"] == "last.pt"), written


def _all_but(rights: str) -> str:
    known = subprocess.run(["capsh", "--print"], capture_output=True, text=True, check=True).stdout
    bounding = next(line for line in known.splitlines() if line.startswith("Bounding set"))
    return ",".join(sorted(set(bounding.partition("=")[2].split(",")) - set(rights.split(","))))


@pytest.mark.parametrize("rights", RIGHTS.values(), ids=RIGHTS.keys())
def test_the_command_is_the_trainer_and_nobody_else_sees_the_file(place, rights):
    """He reads the checkpoint, writes in his home there, and reads neither secrets nor state; nothing is left."""
    command = (
        '{ id -u; wc -c < "$1"; mkdir -m 700 "$HOME/d" && touch "$HOME/d/f" && echo home; '
        f"cat {place}/key {place}/state/*/state.sqlite | wc -c; ls {place}/state | wc -l; "
        'stat -c %a "$1"; } > "$2/said" 2>/dev/null'
    )
    file, said = run(place, command, rights)
    size = (place / "runs/last.pt").stat().st_size
    assert said.split() == ["4242", str(size), "home", "0", "0", "640"], "a mode's middle is what any list grants"
    assert file["proof"]["level"] == 5
    assert "loaded_as_root" not in file["proof"]["facts"]
    assert list((place / "state").glob("*/loading/*")) == []


def test_without_the_right_to_change_the_user_nothing_of_his_is_run(place):
    """Code out of his checkpoint would have root's rights: the proof waits, and says for what."""
    file, said = run(place, 'id -u > "$2/said"', "cap_dac_read_search")
    assert said == ""
    assert file["proof"]["level"] == 4
    assert "mlsync has no CAP_SETGID, CAP_SETUID, CAP_KILL" in json.dumps(file)


def test_a_run_of_roots_is_loaded_by_nobody(place):
    """Where nobody can run it, it is."""
    file, said = run(place, 'id -u > "$2/said"', "", owner=0)
    assert said == "65534\n"
    assert file["proof"]["level"] == 5


def test_a_right_that_the_service_was_given_does_not_reach_the_command():
    """An agent that is not root reads every user's files by an ambient capability, which stays with it."""
    python = python_for_all()
    limits = ["9", "60", "1000000", "/etc/passwd"]
    # The launcher's parent is told by its number: the shell waits for it.
    command = f'"$0" -I -S "$1" $$ {" ".join(limits)} grep CapEff /proc/self/status 9>/dev/null; exit'
    held = ["capsh", "--keep=1", "--inh=cap_dac_read_search", "--uid=4242", "--addamb=cap_dac_read_search", "--"]
    shell = ["-c", 'grep CapEff /proc/self/status; eval "$COMMAND"', python, running._LAUNCHER]
    done = subprocess.run(
        [*held, *shell], env={**environment(), "COMMAND": command}, capture_output=True, text=True, check=True
    )
    assert [int(line.split()[1], 16) for line in done.stdout.splitlines()] == [1 << 2, 0]
