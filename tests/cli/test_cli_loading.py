"""Level 5 at the command line: what a person sees of a command that loads checkpoints."""

from __future__ import annotations

import json


def loaded_by(machine, script):
    """The configuration has *script* load checkpoints."""
    machine.configure(f'[proof]\ndevice = "cpu"\ncommand = ["sh", "-c", "{script}", "{{path}}"]\n')


def test_level_5_is_shown_and_why_it_was_not_had(machine):
    """``show`` says why a checkpoint could not be loaded; ``verify`` proves it to L5, or says that it is broken."""
    loaded_by(machine, "echo no GPU; exit 75")
    machine.good("backup")
    shown = machine.good("show", COLUMNS="200").out
    assert "L4 cpu" in shown
    assert "not loaded: weights/last.pt: sh -c echo no GPU; exit 75 {path} could not tell: no GPU" in shown
    loaded_by(machine, "exit 0")
    assert "L5 cpu" in machine.good("verify").out
    loaded_by(machine, "echo KeyError; exit 1")
    done = machine.run("verify", COLUMNS="200")
    assert done.status == 50
    assert "level 5: sh -c echo KeyError; exit 1 {path} ended with 1: KeyError" in done.out


def test_what_level_5_is_not_meant_for_is_pending_nowhere(machine):
    """Neither ``versions`` nor ``show`` nor ``prove`` waits for a file that the command is not for."""
    proof = '[proof]\ndevice = "cpu"\nrequire = 5\ncommand = ["sh", "-c", "exit {status}", "{{path}}"]\n'
    machine.configure(proof.format(status=77))
    machine.good("backup")
    for command in ("versions", "show"):
        shown = machine.good(command).out
        assert "L4 cpu" in shown
        assert "pending" not in shown
    assert json.loads(machine.good("show", "--json").out)["pending"] is False
    assert "nothing was pending" in machine.good("prove", "--pending").out


def test_what_level_5_was_not_had_for_is_pending_everywhere(machine):
    """A file that is still to be loaded is shown as pending, and proved by ``prove --pending`` when it can be."""
    proof = '[proof]\ndevice = "cpu"\nrequire = 5\non_unavailable = "commit"\n'
    command = 'command = ["sh", "-c", "exit {status}", "{{path}}"]\n'
    machine.configure(proof + command.format(status=75))
    machine.good("backup")
    for name in ("versions", "show"):
        assert "L4 cpu (pending L5)" in machine.good(name, COLUMNS="100").out
    machine.configure(proof + command.format(status=0))
    assert "L5 cpu" in machine.good("prove", "--pending").out
    assert "pending" not in machine.good("versions").out
