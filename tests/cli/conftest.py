"""Machines for the commands: one that is empty, one that has a repository, and one with two versions in it."""

from __future__ import annotations

import pytest
from machine import CommandServer, Machine, copy_of, write_training


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The process that commands are forked from."""
    running = CommandServer(tmp_path_factory.mktemp("commands"))
    yield running
    running.stop()


@pytest.fixture
def fresh(tmp_path, server) -> Machine:
    """A machine with nothing on it."""
    return Machine(tmp_path / "fresh", server)


@pytest.fixture(scope="session")
def initial(tmp_path_factory, server) -> Machine:
    """The template of machines with a repository that holds no version."""
    machine = Machine(tmp_path_factory.mktemp("initial"), server)
    machine.good("init", machine.url)
    return machine


@pytest.fixture(scope="session")
def filled(tmp_path_factory, server, initial) -> Machine:
    """The template of machines with two versions."""
    machine = copy_of(initial, tmp_path_factory.mktemp("filled"), server)
    write_training(machine.training)
    machine.good("backup")
    (machine.training / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.25\n")
    machine.good("backup")
    return machine


@pytest.fixture
def machine(tmp_path, server, initial) -> Machine:
    """A machine with a repository and a training directory that was never backed up."""
    result = copy_of(initial, tmp_path / "machine", server)
    write_training(result.training)
    return result


@pytest.fixture
def saved(tmp_path, server, filled) -> Machine:
    """A machine with two versions of its training directory."""
    return copy_of(filled, tmp_path / "saved", server)
