"""Two machines with names, machine ids, disks and local states of their own, and one repository that both see."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from machine import MLSYNC, NO_DEVICE, checkpoint

pytestmark = pytest.mark.slow

# One path on both, as in two pods of one Job: only name, machine id and content tell them apart.
START = """
set -e
mount --bind "$NODE/id" /etc/machine-id
mount --bind "$NODE/here" "$PLACE"
hostname "$NAME"
exec "$@"
"""


class Node:
    """A machine in namespaces of its own for mounts and names."""

    def __init__(self, base: Path, name: str) -> None:
        self.base, self.name, self.node = base, name, base / name
        (self.node / "here/runs").mkdir(parents=True)
        (self.node / "id").write_text(f"{name[0]}".encode().hex() * 16 + "\n")
        self.place = base / "place"
        self.place.mkdir(exist_ok=True)
        configuration = self.node / "here/mlsync.toml"
        configuration.write_text(
            f'repository = "file://{base}/repo"\nstate_directory = "{self.place}/state"\n[key]\n'
            f'key_file = "{self.place}/key"\n[[watch]]\ndirectory = "{self.place}/runs"\nrun = "yolo"\n{NO_DEVICE}'
        )
        configuration.chmod(0o600)
        (self.node / "here/key").write_bytes(bytes(range(32)))
        (self.node / "here/key").chmod(0o600)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command there."""
        environment = os.environ | {"NODE": str(self.node), "NAME": self.name, "PLACE": str(self.place)}
        words = ["unshare", "--mount", "--uts", "sh", "-c", START, "sh", str(MLSYNC), *arguments]
        words += ["--config", f"{self.place}/mlsync.toml"]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *arguments: str) -> tuple[int, str]:
        """The status of a command, and all that it said."""
        process = self.begin(*arguments)
        out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    def train(self, epoch: int) -> None:
        """The next checkpoint is there."""
        (self.node / "here/runs/last.pt").write_bytes(checkpoint(epoch))


@pytest.fixture
def nodes(tmp_path):
    """Three machines, and a repository with a version that the first of them made."""
    works = subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, check=False)
    if works.returncode != 0 or not Path("/etc/machine-id").exists():
        pytest.skip(f"machines of their own take root: {works.stderr.decode().strip()}")
    found = [Node(tmp_path, name) for name in ("anna", "berta", "clara")]
    words = [MLSYNC, "init", f"file://{tmp_path}/repo", "--config", tmp_path / "none", "--key-file"]
    subprocess.run([*words, found[0].node / "here/key"], check=True, capture_output=True)
    found[0].train(1)
    assert found[0].run("backup", "--quickly")[0] == 0
    return found


def test_two_nodes_that_restored_one_run_do_not_mix(nodes):
    """Both back up at the same moment: one has the run, the other is refused, at once or when it tries again."""
    anna, *both = nodes
    for number, node in enumerate(both):
        assert node.run("restore")[0] == 0
        node.train(10 + number)
    racing = [node.begin("backup", "--quickly") for node in both]
    said = ["".join(one.communicate(timeout=120)) for one in racing]
    statuses = [one.returncode for one in racing]
    assert 0 in statuses, said
    winner = statuses.index(0)
    assert statuses[1 - winner] in (17, 90), said
    loser = both[1 - winner]
    loser.train(20)
    status, text = loser.run("backup", "--quickly")
    assert (status, both[winner].name in text) == (90, True), text
    # The first node comes back: it is refused as well, and nobody waits for it.
    anna.train(30)
    assert anna.run("backup", "--quickly")[0] == 90
    both[winner].train(40)
    assert both[winner].run("backup", "--quickly")[0] == 0
    # The winner's machine is lost: who restores goes on.
    assert loser.run("restore")[0] == 0
    loser.train(50)
    assert loser.run("backup", "--quickly")[0] == 0
    assert loser.run("check")[0] == 0
