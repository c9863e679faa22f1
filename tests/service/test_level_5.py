"""What the configuration says of level 5 reaches those who load checkpoints."""

from __future__ import annotations

import sys

import pytest

from mlsync.app.flow_options import framework_of, policy_of
from mlsync.config.load import load
from mlsync.errors import ConfigInvalid

pytestmark = pytest.mark.slow


@pytest.fixture
def framework(tmp_path):
    """What [proof] says, as the flows see it."""

    def framework(proof, device=None):
        file = tmp_path / "mlsync.toml"
        file.write_text(f'repository = "file:///r"\n[proof]\n{proof}')
        return framework_of(load(file), device)

    return framework


def test_a_command_names_files_beside_the_configuration(framework, tmp_path):
    """A program that lies there is meant by its name, whatever the command's directory is; other words are words."""
    (tmp_path / "check.py").touch()
    found = framework(
        'command = ["python", "check.py", "--file={path}"]\ncommand_for = ["*.pt"]\ncommand_timeout = "5s"'
    )
    assert found.command == ("python", str(tmp_path / "check.py"), "--file={path}")
    assert (found.name, found.patterns, found.timeout_s) == (" ".join(found.command), ("*.pt",), 5.0)
    assert (found.framework, found.environment, found.device) == (None, {}, "auto")


def test_ultralytics_is_run_by_the_proofs_python(framework):
    """The built-in command runs with proof.python, on the device of the call, for what Ultralytics wrote."""
    found = framework('framework = "ultralytics"\npython = "/opt/python"', "cpu")
    assert (found.command[0], found.command[-2:]) == ("/opt/python", ("{path}", "cpu"))
    assert (found.name, found.framework, found.device) == ("ultralytics", "ultralytics", "cpu")


def test_a_state_dict_is_loaded_into_the_model_that_is_named(framework):
    """Without a Python of its own the one of mlsync is taken; the proof records which model it was."""
    found = framework('framework = "state_dict"\nmodel = "a.b:build"')
    assert (found.command[0], found.command[-3:]) == (sys.executable, ("{path}", "auto", "a.b:build"))
    assert (found.name, found.framework) == ("state_dict a.b:build", None)


def test_transformers_is_for_directories(framework):
    """It is given what Hugging Face wrote in several files, and models beside their config.json, but no file alone."""
    found = framework('framework = "transformers"\npython = "/opt/python"', "cpu")
    assert (found.command[0], found.command[-2:], found.name) == ("/opt/python", ("{path}", "cpu"), "transformers")
    assert (found.takes_files, sorted(found.kinds)) == (
        False,
        ["huggingface-model", "huggingface-trainer", "huggingface-weights"],
    )


@pytest.mark.parametrize(
    ("proof", "kinds", "takes_files"),
    [
        ('framework = "ultralytics"', set(), True),
        ('framework = "state_dict"\nmodel = "a:b"', {"dcp", "huggingface-weights", "huggingface-trainer"}, True),
        (
            'command = ["true", "{path}"]',
            {"dcp", "huggingface-weights", "huggingface-trainer", "deepspeed", "megatron"},
            True,
        ),
    ],
)
def test_what_is_several_files_is_given_to_who_can_load_it(framework, proof, kinds, takes_files):
    """Without command_for a command of one's own gets every checkpoint once; the built-in ones what they know."""
    found = framework(proof)
    assert (set(found.kinds), found.takes_files) == (kinds, takes_files)


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        ('framework = "ultralytics"\ncommand_for = ["runs/"]', 'framework = "ultralytics" .* loads files'),
        ('framework = "transformers"\ncommand_for = ["*.pt"]', 'framework = "transformers" .* loads directories'),
    ],
)
def test_patterns_for_what_is_never_loaded_are_refused(framework, proof, said):
    """Directories for Ultralytics, or files for transformers, are a mistake that would load nothing."""
    with pytest.raises(ConfigInvalid, match=said):
        framework(proof)


def test_the_wish_behind_a_refusal_changes_with_what_can_refuse(tmp_path):
    """Numbers, command, patterns, environment and the program itself count; deadlines and the rest do not."""

    def policy(proof):
        file = tmp_path / "mlsync.toml"
        file.write_text(f'repository = "file:///r"\n[proof]\n{proof}')
        return policy_of(load(file))

    (tmp_path / "check.py").write_text("1")
    command = 'command = ["python", "check.py", "{path}"]\n'
    known = policy(command)
    assert policy(command + 'command_timeout = "5s"\nrequire = 5') == known
    assert policy(command + 'refuse = ["nan"]').numbers != known.numbers
    for more in ('command_for = ["*.pt"]', 'command_environment = ["A=1"]'):
        assert policy(command + more).loading != known.loading
    (tmp_path / "check.py").write_text("12")
    assert policy(command).loading not in (known.loading, policy("").loading)


def test_the_environment_is_what_is_listed(framework, monkeypatch):
    """A name brings the variable's value, if it has one; an assignment brings its own."""
    monkeypatch.setenv("HERE", "1")
    monkeypatch.setenv("OTHER", "2")
    found = framework('command = ["true", "{path}"]\ncommand_environment = ["HERE", "ABSENT", "A=b=c"]')
    assert found.environment == {"HERE": "1", "A": "b=c"}
