"""How commands take their words: options before the command, and words that nothing has."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from mlsync.cli.arguments.invocation import Invocation
from mlsync.cli.arguments.options import Common
from mlsync.cli.arguments.parsing import with_common_options
from mlsync.cli.main import cli


def test_options_of_all_commands_count_before_the_command(saved):
    """What is given before the command counts as if it stood behind it: a configuration, a repository, JSON."""
    before = saved.good("--config", saved.configuration, "--json", "versions", MLSYNC_CONFIG="")
    behind = saved.good("versions", "--config", saved.configuration, "--json", MLSYNC_CONFIG="")
    assert before.json() == behind.json()
    assert saved.good("--repo", saved.url, "--json", "versions", MLSYNC_CONFIG="").json() == behind.json()


def test_a_backup_takes_the_configuration_before_the_command(saved):
    """``mlsync --config FILE backup -q`` backs up what FILE watches."""
    (saved.training / "results.csv").write_text("epoch,loss\n")
    assert saved.good("--config", saved.configuration, "backup", "--quickly", "-q", MLSYNC_CONFIG="").out == ""
    assert len(saved.good("versions", "--json").json()["versions"]) == 3


def test_the_option_behind_the_command_wins(saved):
    """Of the same option on both sides, the one behind the command counts; the other ones stay."""
    done = saved.good("--config", "gone.toml", "--json", "versions", "--config", saved.configuration)
    assert len(done.json()["versions"]) == 2
    assert saved.run("--config", saved.configuration, "versions", "--config", "gone.toml").status == 2


def test_an_option_that_a_command_does_not_have_is_refused_before_it_too(fresh):
    """An option before a command that would ignore it is refused, below a group too."""
    for words, said in (
        (("--repo", "/x", "completion", "bash"), "mlsync completion has no option --repo."),
        (("-v", "demo"), "mlsync demo has no option --verbose."),
        (("--config", "x.toml", "service", "uninstall"), "mlsync service uninstall has no option --config."),
    ):
        done = fresh.run(*words)
        assert done.status == 2
        assert said in done.err


def test_a_group_below_takes_the_options_too(fresh):
    """Options before ``service`` reach the command below it."""
    done = fresh.run("--json", "--config", "gone.toml", "service", "install", "--user", "--gpu")
    assert done.json()["error"]["kind"] == "ConfigInvalid"


def test_every_common_option_is_taken_on_both_sides():
    """The options before a command are the ones that commands have, so none is lost on the way."""

    @with_common_options
    def command(**given: object) -> None:
        del given

    names = {parameter.name for parameter in command.__click_params__}
    assert names == {field for field in Common.__dataclass_fields__ if field != "invocation"}
    assert names == {parameter.name for parameter in cli.params if parameter.name not in ("version", "help")}


@pytest.mark.parametrize(
    ("word", "advice"),
    [("version", " Did you mean versions?"), ("restor", " Did you mean restore?"), ("quux", "")],
)
def test_an_unknown_command_suggests_the_nearest(fresh, word, advice):
    """An unknown command names the nearest one, if one is near, and ends with 2."""
    done = fresh.run(word)
    assert done.status == 2
    assert f"Error: No such command '{word}'.{advice}\n" in done.err


def test_an_unknown_command_of_a_group_suggests_the_nearest():
    """The commands of ``service`` are suggested too."""
    done = CliRunner().invoke(cli, ["service", "instal"], obj=Invocation("mlsync", ()))
    assert "No such command 'instal'. Did you mean install?" in done.output


def test_show_takes_the_version_as_an_option_too(saved):
    """``show --version N`` shows what ``show N`` shows; both at once are refused."""
    assert saved.good("show", "--version", "1").out == saved.good("show", "1").out
    assert saved.good("show", "--version", "1").out != saved.good("show").out
    done = saved.run("show", "1", "--version", "2")
    assert done.status == 2
    assert "VERSION is given twice" in done.err
