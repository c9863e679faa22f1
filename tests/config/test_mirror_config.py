"""``[[mirror]]``: what is taken, what is refused, and when a version counts as safe."""

from __future__ import annotations

import pytest

from mlsync.config.load import load, load_with
from mlsync.errors import ConfigInvalid

HEAD = 'repository = "/fast/r"\n[[watch]]\ndirectory = "/t"\nrun = "yolo"\n'


def loaded(tmp_path, text, head=HEAD):
    file = tmp_path / "mlsync.toml"
    file.write_text(f"{head}{text}\n")
    return load(file, {"HOME": "/root"})


def test_mirrors_are_read_with_servers_of_their_own(tmp_path):
    """A mirror has a name unless it is the only one, its own S3 settings, its own rules, and runs."""
    text = (
        '[s3]\nregion = "eu-central-1"\n[[mirror]]\nurl = "s3://far/yolo"\nendpoint_url = "https://minio:9000"\n'
        'keep = ["last 3"]\nruns = ["yolo"]\n[[mirror]]\nurl = "mirror"\nname = "near"\n'
    )
    first, second = loaded(tmp_path, text).mirrors
    assert (first.name, first.url, first.s3.endpoint_url, first.s3.region) == (
        "mirror",
        "s3://far/yolo",
        "https://minio:9000",
        None,
    )
    assert [rule.text for rule in first.keep] == ["last 3"]
    assert (first.copies("yolo"), first.copies("bert"), second.copies("bert")) == (True, False, True)
    assert (second.name, second.directory) == ("near", tmp_path / "mirror")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[mirror]]\nname = "far"', "without url"),
        ('[mirror]\nurl = "/m"', "list of tables"),
        ('[[mirror]]\nurl = "/m"\nbucket = "x"', "unknown key bucket"),
        ('[[mirror]]\nurl = "s3://k:s@bucket/x"', "without credentials"),
        ('[[mirror]]\nurl = "/m"\n[[mirror]]\nurl = "/n"', "a second mirror named 'mirror'.*set name"),
        ('[[mirror]]\nurl = "/m"\nname = "a"\n[[mirror]]\nurl = "/m/"\nname = "b"', "'b' and the mirror 'a' are"),
        ('[[mirror]]\nurl = "/fast/r"', "'mirror' and the repository are at the same place"),
        ('[[mirror]]\nurl = "/fast/x/../r/below"', "or one inside the other"),
        ('[[mirror]]\nurl = "/fast"', "or one inside the other"),
        ('[[mirror]]\nurl = "/t/m"', "the mirror 'mirror' is inside a watched directory"),
        ('[[mirror]]\nurl = "/m"\nruns = ["yolp"]', "no run named 'yolp' is watched.*did you mean yolo"),
        ('[[mirror]]\nurl = "/m"\nruns = []', "a list of runs"),
        ('[[mirror]]\nurl = "/m"\nkeep = []', "a list of rules"),
        ('[agent]\nsafe = "far"', 'one of "repository", "mirror"'),
        ('[agent]\nsafe = "mirror"', "in .agent. needs a .*mirror"),
    ],
)
def test_what_is_wrong_is_refused(tmp_path, text, said):
    """The message says what is allowed, or what contradicts itself."""
    with pytest.raises(ConfigInvalid, match=said):
        loaded(tmp_path, text)


def test_a_bucket_of_another_server_is_another_place(tmp_path):
    """One name of a bucket at two servers means two buckets; at one server it is refused."""
    head = 'repository = "s3://b/yolo"\n'
    assert loaded(tmp_path, '[[mirror]]\nurl = "s3://b/yolo"\nendpoint_url = "https://other"', head).mirrors
    assert loaded(tmp_path, '[[mirror]]\nurl = "s3://b/yolo2"', head).mirrors
    with pytest.raises(ConfigInvalid, match="same place"):
        loaded(tmp_path, '[[mirror]]\nurl = "s3://b/yolo/"', head)


def test_mirrors_are_those_of_the_repository_that_the_file_names(tmp_path):
    """A command for another repository, which may be the mirror itself, has no mirrors of this file."""
    file = tmp_path / "mlsync.toml"
    file.write_text(f'{HEAD}[[mirror]]\nurl = "/m"\n')
    assert load_with(file, repository="/fast/r", environ={"HOME": "/root"}).mirrors
    assert load_with(file, repository="/m", environ={"HOME": "/root"}).mirrors == ()


@pytest.mark.parametrize(
    ("repository", "text", "is_far"),
    [
        ("/fast/r", '[[mirror]]\nurl = "s3://b/x"', True),
        ("s3://a/x", '[[mirror]]\nurl = "s3://b/x"', False),
        ("/fast/r", "", False),
        ("/fast/r", '[agent]\nsafe = "repository"\n[[mirror]]\nurl = "s3://b/x"', False),
        ("s3://a/x", '[agent]\nsafe = "mirror"\n[[mirror]]\nurl = "s3://b/x"', True),
    ],
)
def test_safe_means_far_where_the_repository_is_a_directory(tmp_path, repository, text, is_far):
    """A directory is lost with its machine, so a version counts as safe in the mirror, unless that is said."""
    assert loaded(tmp_path, text, f'repository = "{repository}"\n').is_safe_in_mirror == is_far


def test_the_environment_names_one_mirror():
    """A container needs no file, and what the file says of mirrors does not count then."""
    environ = {"HOME": "/root", "MLSYNC_REPOSITORY": "/r", "MLSYNC_MIRROR_URL": "s3://b/x"}
    (found,) = load_with(None, environ=environ | {"MLSYNC_MIRROR_REGION": "us-east-1"}).mirrors
    assert (found.url, found.name, found.s3.region) == ("s3://b/x", "mirror", "us-east-1")
