"""Start scripts on machines that have no configuration: ``init --if-missing``, ``agent --watch``, variables."""

from __future__ import annotations

import json


def test_a_start_script_makes_the_repository_once(fresh):
    """The first start makes it; the next one leaves it as it is, ends with 0, and a new node gets a configuration."""
    made = json.loads(fresh.good("init", fresh.url, "--if-missing", "--watch", str(fresh.training), "--json").out)
    assert made["made"] is True
    written = fresh.configuration.read_text()
    left = json.loads(fresh.good("init", "--if-missing", "--json", MLSYNC_REPOSITORY=fresh.url).out)
    assert left == {**made, "made": False}
    assert fresh.configuration.read_text() == written
    fresh.configuration.unlink()
    done = fresh.good("init", fresh.url, "--if-missing", "--watch", str(fresh.training))
    assert "There is a repository" in done.out
    assert fresh.configuration.read_text() == written


def test_a_start_script_does_not_take_another_repositorys_configuration(fresh):
    """A configuration that names another repository is a mistake, and stays as it is."""
    fresh.good("init", fresh.url, "--config", "other.toml")
    fresh.configuration.write_text('repository = "/srv/elsewhere"\n')
    done = fresh.run("init", fresh.url, "--if-missing")
    assert (done.status, "there is a configuration for file:///srv/elsewhere already" in done.err) == (2, True)
    assert fresh.configuration.read_text() == 'repository = "/srv/elsewhere"\n'


def test_a_write_only_key_needs_who_makes_the_repository(fresh):
    """A start script that finds the repository could not make that key."""
    done = fresh.run("init", fresh.url, "--if-missing", "--write-only", "node.key")
    assert (done.status, "--if-missing with --write-only" in done.err) == (2, True)


def test_commands_do_with_the_environment_alone(fresh):
    """Repository, state and directory by variables: a backup and its list, with no file anywhere."""
    fresh.good("init", fresh.url, "--config", "other.toml")
    (fresh.base / "other.toml").unlink()
    fresh.training.mkdir()
    (fresh.training / "a.txt").write_text("1")
    said = {
        "MLSYNC_CONFIG": "",
        "MLSYNC_REPOSITORY": fresh.url,
        "MLSYNC_STATE_DIRECTORY": str(fresh.state),
        "MLSYNC_WATCH_DIRECTORY": str(fresh.training),
        "MLSYNC_WATCH_RUN": "mine",
    }
    made = json.loads(fresh.good("backup", "--json", **said).out)
    assert [(run["run"], run["version"]) for run in made["runs"]] == [("mine", 1)]
    assert (fresh.state / made["id"]).is_dir() if "id" in made else any(fresh.state.iterdir())


def test_a_mistyped_variable_is_named(fresh):
    """It would leave a default in force that nobody wanted."""
    done = fresh.run("backup", MLSYNC_CONFIG="", MLSYNC_REPOSITORY=fresh.url, MLSYNC_AGENT_STOP_WITHN="5s")
    assert done.status == 2
    assert "did you mean MLSYNC_AGENT_STOP_WITHIN?" in done.err


def test_the_agent_says_what_it_lacks_without_a_file(fresh):
    """With a repository and no directory there is nothing to do."""
    done = fresh.run("agent", "--repo", fresh.url, MLSYNC_CONFIG="")
    assert done.status == 2
    assert "no configuration file" in done.err
    done = fresh.run("agent", MLSYNC_CONFIG="", MLSYNC_REPOSITORY=fresh.url)
    assert (done.status, "no directory to watch" in done.err, "--watch DIR" in done.err) == (2, True, True)


def test_init_reads_the_environment_as_other_commands_do(fresh):
    """A passphrase's file by its variable makes the repository and opens it; a misspelt variable is named."""
    file = fresh.base / "word"
    file.write_text("a phrase that is long enough for init\n")
    file.chmod(0o600)
    variables = {**dict.fromkeys(fresh.secret, ""), "MLSYNC_KEY_PASSPHRASE_FILE": str(file)}
    fresh.good("init", fresh.url, "--watch", str(fresh.training), **variables)
    fresh.good("check", **variables)
    done = fresh.run("init", "elsewhere", MLSYNC_KEY_PASSPHRASE_FIL=str(file))
    assert (done.status, "did you mean MLSYNC_KEY_PASSPHRASE_FILE" in done.err) == (2, True)
