"""The configuration by environment variables: their names, their values, what they override."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlsync.config.environment import known_variables, read_environment, variable_of
from mlsync.config.load import load_with
from mlsync.config.model import TABLES, TOP
from mlsync.errors import ConfigInvalid
from mlsync.source.exclude import Excludes

FILE = """\
repository = "/srv/a"
state_directory = "/state"
[agent]
every = "1h"
settle = "3s"
[key]
passphrase_file = "/etc/secret"
[[watch]]
directory = "/data/one"
run = "first"
exclude = ["*.log"]
[[watch]]
directory = "/data/two"
"""


@pytest.fixture
def file(tmp_path):
    place = tmp_path / "mlsync.toml"
    place.write_text(FILE)
    return place


def config(place=None, watches=(), repository=None, **environ):
    return load_with(place, watches=watches, repository=repository, environ={"HOME": "/root", **environ})


def test_each_key_has_a_variable_of_its_own():
    """The name is made of table and key, and no two keys share one."""
    keys = [("", name) for name in TOP] + [(table, name) for table, names in TABLES.items() for name in names]
    assert len(known_variables()) == len(keys)
    assert variable_of("", "repository") == "MLSYNC_REPOSITORY"
    assert variable_of("agent", "every") == "MLSYNC_AGENT_EVERY"
    assert variable_of("proof", "require") == "MLSYNC_PROOF_REQUIRE"
    assert variable_of("s3", "endpoint_url") == "MLSYNC_S3_ENDPOINT_URL"


def test_each_key_takes_its_example_from_the_environment(tmp_path):
    """What a file may say of a key, its variable may say as well, as TOML writes it."""
    (tmp_path / "check.py").touch()
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        for name, (table, key) in known_variables().items():
            said = read_environment({name: key.example})
            assert list(said.of(table)) == [key.field], name
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("MLSYNC_AGENT_ON_CHANGE", "false", "on_change", False),
        ("MLSYNC_AGENT_SETTLE", "10s", "settle_s", 10.0),
        ("MLSYNC_AGENT_SETTLE", '"10s"', "settle_s", 10.0),
        ("MLSYNC_PROOF_REQUIRE", "4", "require", 4),
        ("MLSYNC_PROOF_REFUSE", "nan, inf", "refuse", ("nan", "inf")),
        ("MLSYNC_PROOF_REFUSE", '["nan"]', "refuse", ("nan",)),
        ("MLSYNC_WATCH_EXCLUDE", "*.log", "exclude", ("*.log",)),
        ("MLSYNC_WATCH_RUN", "7", "run", "7"),
        ("MLSYNC_REPOSITORY", "s3://bucket/runs", "repository", "s3://bucket/runs"),
        ("MLSYNC_REPOSITORY", '"s3://bucket/runs"', "repository", "s3://bucket/runs"),
        ("MLSYNC_WATCH_DIRECTORY", "runs", "directory", Path(os.getcwd()) / "runs"),
    ],
)
def test_values_are_written_as_a_shell_writes_them(name, text, field, value):
    """Words need no quotes, lists are words with commas, and what TOML writes means the same."""
    (values,) = read_environment({name: text}).values.values()
    assert values == {field: value}
    assert Excludes(("*.log",))


def test_a_variable_counts_before_the_file_and_the_command_line_before_both(file):
    """What a platform sets is for this start; the rest of the file holds."""
    found = config(file, MLSYNC_AGENT_EVERY="never", MLSYNC_REPOSITORY="/srv/b", MLSYNC_WATCH_KEEP_TEMPORARY="true")
    assert (found.repository, found.agent.settle_s) == ("file:///srv/b", 3.0)
    assert found.agent != config(file).agent
    assert [(watch.run, watch.keep_temporary) for watch in found.watches] == [("first", True), ("two", True)]
    assert found.watches[0].exclude == ("*.log",)
    assert config(file, repository="/srv/c", MLSYNC_REPOSITORY="/srv/b").repository == "file:///srv/c"


def test_no_file_is_needed():
    """Repository and directory are enough, by variables or by options."""
    found = config(MLSYNC_REPOSITORY="/srv/b", MLSYNC_WATCH_DIRECTORY="/data/yolo", MLSYNC_WATCH_RUN="mine")
    assert found.path is None
    assert [(watch.directory, watch.run) for watch in found.watches] == [(Path("/data/yolo"), "mine")]
    found = config(watches=(Path("/data/a"), Path("/data/b")), repository="/srv/b")
    assert [watch.run for watch in found.watches] == ["a", "b"]


def test_a_directory_on_the_command_line_keeps_what_the_file_says_of_it(file):
    """``--watch`` picks the directory, and its run is the one that it always was."""
    (watch,) = config(file, watches=(Path("/data/one"),)).watches
    assert (watch.run, watch.exclude) == ("first", ("*.log",))


def test_another_secret_takes_the_place_of_the_files(file):
    """A key file in the environment is meant in place of the passphrase file, not beside it."""
    key = config(file, MLSYNC_KEY_KEY_FILE="/run/key").key
    assert (key.key_file, key.passphrase_file) == (Path("/run/key"), None)


@pytest.mark.parametrize(
    ("environ", "what", "advice"),
    [
        ({"MLSYNC_REPOSITRY": "/srv"}, "the environment has MLSYNC_REPOSITRY", "did you mean MLSYNC_REPOSITORY?"),
        ({"MLSYNC_EVERY": "1h"}, "the environment has MLSYNC_EVERY", "did you mean MLSYNC_AGENT_EVERY?"),
        ({"MLSYNC_XYZZY": "1"}, "the environment has MLSYNC_XYZZY", "docs/configuration.md names them; unset it"),
        ({"MLSYNC_AGENT_SETTLE": "soon"}, "MLSYNC_AGENT_SETTLE must be a length of time", None),
        ({"MLSYNC_PROOF_REFUSE": "nan,odd"}, "MLSYNC_PROOF_REFUSE must be a list of some of", None),
        ({"MLSYNC_AGENT_SETTLE": "5m"}, "settle_max in [agent] is less than settle", None),
        ({"MLSYNC_KEY_KEY_FILE": "/a", "MLSYNC_KEY_PASSPHRASE_FILE": "/b"}, "both passphrase_file and key_file", None),
        ({}, "the configuration names no repository", None),
        ({"MLSYNC_WATCH_RUN": "x"}, "one run's name for several watched directories", None),
    ],
)
def test_mistakes_are_named_with_the_nearest_name(environ, what, advice):
    """A mistyped variable would silently leave the default, or watch nothing."""
    if environ:
        environ = {"MLSYNC_REPOSITORY": "/srv/b", **environ}
    with pytest.raises(ConfigInvalid) as error:
        config(watches=(Path("/data/a"), Path("/data/b")), **environ)
    assert error.value.what.startswith(what)
    if advice:
        assert error.value.advice == advice


def test_a_wrong_value_is_said_to_be_the_variables(file):
    """The place of the mistake is the variable, also of one that shows only beside other keys."""
    for name, text in (("MLSYNC_AGENT_SETTLE", "soon"), ("MLSYNC_KEY_KEY_FILE", "/a")):
        with pytest.raises(ConfigInvalid) as error:
            config(file, **{name: text, "MLSYNC_KEY_PASSPHRASE_FILE": "/b", "MLSYNC_AGENT_SETTLE_MAX": "60s"})
        assert error.value.where == name


@pytest.mark.parametrize(
    "name",
    [
        "MLSYNC_SERVICE_HOST",
        "MLSYNC_PORT",
        "MLSYNC_PORT_80_TCP",
        "MLSYNC_PORT_80_TCP_ADDR",
        "MLSYNC_METRICS_SERVICE_PORT_HTTP",
    ],
)
def test_what_kubernetes_sets_for_a_service_is_no_mistake(name):
    """A service that is called mlsync puts such variables into every container beside it."""
    assert read_environment({name: "tcp://10.0.0.1:80"}).values == {}


def test_empty_variables_are_not_set():
    """As compose and Kubernetes leave those that nobody gave a value."""
    assert read_environment({"MLSYNC_REPOSITORY": "", "MLSYNC_NONSENSE": ""}).values == {}


def test_tags_may_be_words_with_commas_between_them():
    """A variable says tags as a table or as ``name=value``; an account's number needs no quotes."""
    s3 = config(
        MLSYNC_REPOSITORY="s3://b/p",
        MLSYNC_S3_TAGS="team=vision,stage=a=b",
        MLSYNC_S3_EXPECTED_BUCKET_OWNER="000022223333",
    ).s3
    assert (s3.tags, s3.expected_bucket_owner) == ({"team": "vision", "stage": "a=b"}, "000022223333")
    assert config(MLSYNC_REPOSITORY="s3://b/p", MLSYNC_S3_TAGS="{}").s3.tags == {}
    with pytest.raises(ConfigInvalid, match="names that come once each"):
        config(MLSYNC_REPOSITORY="s3://b/p", MLSYNC_S3_TAGS="team=vision,team=speech")


def test_what_is_wrong_with_a_text_is_said_of_the_text():
    """A text that a key refuses is tried as a list too, and the message is not about that."""
    with pytest.raises(ConfigInvalid, match="a class whose objects can be read at once: every command reads them"):
        config(MLSYNC_REPOSITORY="s3://b/p", MLSYNC_S3_STORAGE_CLASS_OTHERS="GLACIER")
    with pytest.raises(ConfigInvalid, match="a key's ARN"):
        config(MLSYNC_REPOSITORY="s3://b/p", MLSYNC_S3_KMS_KEY_ID="no key")


@pytest.mark.parametrize("value", ["2h", "61m"])
def test_a_bound_is_said_of_the_text_too(value):
    """What a text is beyond says more than that a list of one word is nothing of that kind."""
    with pytest.raises(ConfigInvalid, match=f'"1d", up to one hour, not "{value}"'):
        read_environment({"MLSYNC_PROOF_KEEP_WARM": value})
