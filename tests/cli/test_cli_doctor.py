"""``mlsync doctor``: what it prints, how it ends, and that it changes nothing."""

from __future__ import annotations

from machine import content


def subjects(value):
    """Grade of each finding by what it is about; a subject with several has the gravest."""
    order = ["grave", "warning", "unknown", "fine"]
    found = {}
    for one in value["findings"]:
        found[one["subject"]] = min(one["grade"], found.get(one["subject"], "fine"), key=order.index)
    return found


def test_doctor_looks_at_everything_and_changes_nothing(saved):
    """Each subject is in the answer, no secret is asked for, and the repository is as it was."""
    before = content(saved.repository)
    done = saved.run("doctor", "--json", CREDENTIALS_DIRECTORY="")
    found = subjects(done.json())
    assert {
        "disk of the repository",
        "disk of run yolo",
        "disk of the local state",
        "files of run yolo",
    } <= found.keys()
    assert {
        "room for the repository",
        "inotify",
        "notice of an end",
        "store",
        "rights in the store",
        "clock",
    } <= found.keys()
    assert (found["store"], found["rights in the store"], found["clock"]) == ("fine", "fine", "fine")
    assert (found["key slots"], found["files of run yolo"]) == ("warning", "fine")
    assert content(saved.repository) == before


def test_something_grave_ends_with_a_status_of_its_own(saved):
    """A repository that is gone is grave: it comes first, with what to do, and the status is 103."""
    saved.repository.rename(saved.base / "elsewhere")
    done = saved.run("doctor")
    assert done.status == 103
    assert done.out.startswith("Grave:\n")
    assert "  store: no such directory" in done.out
    assert "do: mlsync init makes one" in done.out
    assert "grave finding" in done.err


def test_doctor_is_quiet_about_what_is_fine(saved):
    """``--quiet`` leaves out what needs no thought."""
    assert "Fine:" in saved.run("doctor", "--no-write").out
    said = saved.run("doctor", "--no-write", "--quiet").out
    assert "Fine:" not in said
    assert "mlsync key add --recovery" in said


def test_doctor_needs_a_configuration_or_a_repository(fresh):
    """Without either it ends as all commands do."""
    assert fresh.run("doctor").status == 2
