"""Level 5 at the command line: what a person sees of a command that loads checkpoints."""

from __future__ import annotations


def loaded_by(machine, script):
    """The configuration has *script* load checkpoints."""
    machine.configure(f'[proof]\ndevice = "cpu"\ncommand = ["sh", "-c", "{script}", "{{path}}"]\n')


def test_level_5_is_shown_and_why_it_was_not_had(machine):
    """``show`` says why a checkpoint could not be loaded; ``verify`` proves it to L5, or says that it is broken."""
    loaded_by(machine, "echo no GPU; exit 75")
    machine.good("backup")
    shown = machine.good("show").out
    assert "L4 cpu" in shown
    assert "not loaded: weights/last.pt: sh -c echo no GPU; exit 75 {path} could not tell: no GPU" in shown
    loaded_by(machine, "exit 0")
    assert "L5 cpu" in machine.good("verify").out
    loaded_by(machine, "echo KeyError; exit 1")
    done = machine.run("verify")
    assert done.status == 50
    assert "level 5: sh -c echo KeyError; exit 1 {path} ended with 1: KeyError" in done.out
