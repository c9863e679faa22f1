"""A repository of a group: users with numbers of their own, each with a home, a configuration and a run."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from machine import NO_DEVICE, content, write_training

from command_client import KEY
from members import ANNA, BERT, GROUP, GROUPS_MODES, ROOT, STRANGER, groups_of, modes_below, run, shared_place

pytestmark = pytest.mark.slow


class Users:
    """Users of one machine with a repository that they may share."""

    def __init__(self, place, server) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can be another user")
        self._server = server
        self.place = place
        self.repository = place / "runs"
        self._key = place / "credentials" / "mlsync-key"
        self._key.parent.mkdir()
        self._key.write_bytes(KEY)
        for uid in (ROOT, ANNA, BERT, STRANGER):
            (home := self.home(uid)).mkdir()
            os.chown(home, uid, uid)

    def home(self, uid):
        """A user's own place."""
        return self.place / f"home-{uid}"

    def run(self, uid, *arguments, umask=0o077, key=True):
        """What mlsync did as this user; without a *key* it would have to ask for a passphrase, and cannot."""
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home(uid)),
            "LC_ALL": "C.UTF-8",
            "MLSYNC_CONFIG": str(self.home(uid) / "c.toml"),
        }
        if key:
            environ["CREDENTIALS_DIRECTORY"] = str(self._key.parent)
        return self._server.run(arguments, environ, "/", uid, groups=groups_of(uid), umask=umask)

    def good(self, uid, *arguments, umask=0o077):
        """What a command printed that had to succeed."""
        done = self.run(uid, *arguments, umask=umask)
        assert (done.status, done.err) == (0, ""), (arguments, done)
        return done.out

    def train(self, uid, epoch=1, directory=None, run_name=None):
        """A user's training directory, and a configuration that watches it."""
        home, directory = self.home(uid), directory or self.home(uid) / "train"
        write_training(directory, epoch)
        (home / "c.toml").write_text(
            f'repository = "file://{self.repository}"\nstate_directory = "{home / "state"}"\n'
            f'[[watch]]\ndirectory = "{directory}"\nrun = "{run_name or f"run-{uid}"}"\n{NO_DEVICE}'
        )
        (home / "c.toml").chmod(0o600)
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, uid)


@pytest.fixture
def users(server):
    """Users, and no repository yet."""
    with shared_place() as place:
        place.chmod(0o1777)
        yield Users(place, server)


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_each_member_restores_what_the_others_backed_up(users, umask):
    """Two members and root back up runs of their own into one repository and restore each other's, under any umask."""
    assert f"shared with    group {GROUP}\n" in users.good(
        ANNA, "init", "--group", GROUP, users.repository, umask=umask
    )
    everybody = (ANNA, BERT, ROOT)
    for number, uid in enumerate(everybody):
        users.train(uid, number)
        users.good(uid, "backup", "--quickly", umask=umask)
    for uid in everybody:
        for other in everybody:
            target = users.home(uid) / f"from-{other}"
            users.good(uid, "restore", "--run", f"run-{other}", "--to", target, umask=umask)
            assert content(target) == content(users.home(other) / "train")
        assert "3 runs, 3 versions" in users.good(uid, "check", "--read-data", "--quickly")
    assert modes_below(users.repository) == GROUPS_MODES


def test_a_second_user_without_a_group_is_told_what_to_do(users):
    """Who uses another one's repository gets 72, whose it is, and the commands that make it a group's."""
    assert "shared with" not in users.good(ANNA, "init", users.repository)
    users.train(BERT)
    done = users.run(BERT, "backup")
    assert done.status == 72
    assert f"it is user {ANNA}'s alone" in done.err
    assert f"chgrp -R GROUP {users.repository}" in done.err
    assert modes_below(users.repository) == {("directory", "0700", ANNA), ("file", "0600", ANNA)}


@pytest.mark.parametrize(
    ("group", "where", "status", "says"),
    [
        (GROUP, "s3://bucket/runs", 2, "--group is for a repository in a directory"),
        ("no-such-group", "runs", 2, "no such group: no-such-group"),
        (STRANGER, "runs", 2, "this user is not in that group"),
        (GROUP, "roots", 72, "only its owner can give this directory to a group"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_a_passphrase_is_asked_for(users, group, where, status, says):
    """A bucket, an unknown group, a group of others and a directory of others are refused without a secret."""
    (users.place / "roots").mkdir(mode=0o755)
    place = where if ":" in where else users.place / where
    done = users.run(ANNA, "init", "--group", group, place, key=False)
    assert (done.status, done.out) == (status, "")
    assert says in done.err
    assert not users.repository.exists()
    assert list(users.home(ANNA).iterdir()) == []


def test_a_member_who_cannot_reach_the_repository_is_foreseen(users):
    """Init warns of a directory above the repository that is closed to the group."""
    done = users.run(ANNA, "init", "--group", GROUP, users.home(ANNA) / "runs")
    assert done.status == 0
    assert done.err == ""
    users.home(BERT).chmod(0o700)
    done = users.run(BERT, "init", "--group", GROUP, users.home(BERT) / "runs")
    assert done.status == 0
    assert f"group {GROUP} cannot reach the repository through {users.home(BERT)}: chgrp" in done.err


def test_two_users_of_one_directory_are_one_run(users):
    """Members who back up the same directory continue each other's versions, each with a local state of their own."""
    users.good(ROOT, "init", "--group", GROUP, users.repository)
    both = users.place / "both"
    for number, uid in enumerate((ANNA, BERT, ANNA), 1):
        users.train(uid, number, both, "both")
        for path in both.rglob("*"):
            path.chmod(0o755)
        assert f"both: version {number} " in users.good(uid, "backup", "--quickly")


def test_the_same_name_for_two_directories_is_refused_between_members(users):
    """A member's run is not continued from another member's directory."""
    users.good(ROOT, "init", "--group", GROUP, users.repository)
    for uid in (ANNA, BERT):
        users.train(uid, uid, run_name="yolo")
    users.good(ANNA, "backup", "--quickly")
    assert users.run(BERT, "backup", "--quickly").status == 90


@pytest.fixture(scope="module")
def with_two_runs(server):
    """Users of whom two have a run in a repository, and a copy of all that."""
    with shared_place() as place:
        place.chmod(0o1777)
        users = Users(place, server)
        users.good(ROOT, "init", "--group", GROUP, users.repository)
        for uid in (ANNA, BERT):
            users.train(uid, uid)
            users.good(uid, "backup", "--quickly")
        subprocess.run(["cp", "-a", place, place.with_suffix(".copy")], check=True)
        yield users
        shutil.rmtree(place.with_suffix(".copy"))


@pytest.fixture
def shared(with_two_runs):
    """The same as it was at first: members may change all of it."""
    place = with_two_runs.place
    for path in place.iterdir():
        shutil.rmtree(path)
    subprocess.run(["cp", "-a", f"{place.with_suffix('.copy')}/.", place], check=True)
    return with_two_runs


# Before all others: what ends a listing there leaves out every slot.
PLANTED_SLOT = "keys/" + "00" * 16
VERSION = "versions/*/0000000001"


@pytest.mark.parametrize(
    ("code", "named", "statuses"),
    [
        # What is closed to the group. Bert's next backup needs neither his old packs nor Anna's.
        ("echo x > {slot}; chmod 0 {slot}", PLANTED_SLOT, (72, 0, 0)),
        # No pack's id begins with zz, or one of Bert's would now and then have to go there.
        ("mkdir packs/zz; chmod 0 packs/zz", "packs/zz", (72, 0, 0)),
        ("for p in packs/*/*; do cp $p x; mv -f x $p; chmod 0 $p; done", "packs/", (72, 72, 0)),
        ("for v in {version}; do cp $v x; mv -f x $v; chmod 0 $v; done", "versions/", (72, 72, 72)),
        ("rm -r tmp; mkdir -m 700 tmp", "runs/tmp", (0, 0, 72)),
        # Links and things that are no files.
        ("ln -s /etc/passwd {slot}", PLANTED_SLOT, (33, 0, 0)),
        ("ln -s /etc packs/zz", "packs/zz", (33, 0, 0)),
        ("rm -r tmp; ln -s {home} tmp", "runs/tmp", (0, 0, 76)),
        ("rm -r tmp; mkfifo tmp", "runs/tmp", (0, 0, 76)),
        ("mkfifo {slot}", PLANTED_SLOT, (33, 0, 0)),
        ("for p in packs/*/*; do rm -f $p; mkfifo $p; done", "packs/", (33, 31, 76)),
        ("for p in packs/*/*; do rm -f $p; ln -s {home}/train/weights/last.pt $p; done", "packs/", (33, 31, 76)),
        ("for p in packs/*/*; do rm -f $p; ln {home}/train/weights/last.pt $p; done", "packs/", (33, 31, 0)),
        ("for v in {version}; do rm -f $v; mkdir $v; done", "of run 'run-61002'", (16, 16, 16)),
        ("mv versions x; ln -s x versions", "versions/", (76, 76, 76)),
        ("rm repository; ln -s /etc/passwd repository", "header", (31, 31, 31)),
        ("rm repository; mkfifo repository", "header", (31, 31, 31)),
    ],
)
def test_what_a_member_plants_is_named_and_followed_nowhere(shared, code, named, statuses):
    """Whatever a member puts in an object's place, another's commands end, name it, and do not follow it."""
    before = content(shared.home(ANNA))
    text = code.format(slot=PLANTED_SLOT, version=VERSION, home=shared.home(ANNA))
    assert run(ANNA, ["/bin/sh", "-ec", f"cd {shared.repository}; {text}"], umask=0o022).stderr == ""
    (shared.home(BERT) / "train" / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    target = shared.home(BERT) / "restored"
    done = [
        shared.run(BERT, "check", "--read-data", "--quickly"),
        shared.run(BERT, "restore", "--run", f"run-{BERT}", "--to", target),
        shared.run(BERT, "backup", "--quickly"),
    ]
    assert tuple(one.status for one in done) == statuses, done
    assert all(one.status == 0 or named in one.out + one.err for one in done), done
    assert "no key slot" not in done[0].out
    assert content(shared.home(ANNA)) == before


def test_a_closed_key_slot_keeps_nobody_out(shared):
    """A machine without local state opens the repository by another slot beside one that it may not read."""
    (slot := shared.repository / PLANTED_SLOT).write_bytes(b"")
    slot.chmod(0)
    shutil.rmtree(shared.home(BERT) / "state")
    assert "run-" in shared.good(BERT, "versions")
