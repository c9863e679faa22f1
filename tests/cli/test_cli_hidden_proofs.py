"""What commands say of a version of which the store does not show a later proof any more."""

from __future__ import annotations

import io
import re

import pytest
from machine import content, copy_of

MISSING = "a later proof that was seen before is missing, and it may say that a checkpoint is broken"
WARNING = f"warning: yolo: version 2: {MISSING}; mlsync check names what is missing"
PASSED_OVER = f"warning: yolo: version 2 is passed over: {MISSING}"


def checkpoint(epoch: int, fitness: float) -> bytes:
    """A checkpoint that training can resume from, with its fitness."""
    import torch

    file = io.BytesIO()
    state = {"epoch": epoch, "best_fitness": fitness, "optimizer": {"state": {}, "param_groups": []}}
    torch.save({**state, "model": {"weight": torch.full((16, 16), float(epoch))}}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def proved(tmp_path_factory, server, initial):
    """The template: version 2 has the best checkpoint and a later proof, version 3 has none and names that proof."""
    machine = copy_of(initial, tmp_path_factory.mktemp("proved"), server)
    machine.training.mkdir()
    for epoch, fitness in ((1, 0.1), (2, 0.9)):
        (machine.training / "last.pt").write_bytes(checkpoint(epoch, fitness))
        machine.good("backup")
    machine.good("prove", "2", "--level", "2")
    (machine.training / "last.pt").unlink()
    (machine.training / "log.txt").write_text("the end\n")
    machine.good("backup", "--accept-loss")
    return machine


@pytest.fixture
def shown(tmp_path, server, proved):
    """A machine whose store shows all that was written."""
    return copy_of(proved, tmp_path / "shown", server)


@pytest.fixture
def hiding(shown):
    """A machine whose store hides the later proof of version 2."""
    shown.object("proofs/*/*/*").unlink()
    return shown


@pytest.fixture
def key(proved) -> str:
    """The name of the object that is hidden."""
    return str(proved.object("proofs/*/*/*").relative_to(proved.repository))


def on_one_line(text: str) -> str:
    """What was wrapped at the width of a terminal, as one line."""
    return " ".join(text.split())


def restored(machine, word: str):
    """What a restore of *word* brings back, and what it says beside that."""
    target = machine.base / "restored"
    done = machine.good("restore", "--version", word, "--to", target)
    return content(target), on_one_line(done.err)


# ---------------------------------------------------------------- what lists and shows


def test_versions_lists_the_proof_as_hidden(hiding):
    """The proof of that version alone is hidden, and the line below says why."""
    _, _, first, second, why, *rest = hiding.good("versions").out.splitlines()
    assert (first.split()[-1], second.split()[0], second.split()[-1]) == ("L3)", "2", "hidden")
    assert on_one_line(" ".join((why, *rest))).startswith(MISSING)
    assert not [line for line in rest if line.endswith("hidden")]


def test_versions_without_a_hidden_proof_says_nothing(shown):
    """Where the store shows all, no proof is hidden."""
    assert "hidden" not in shown.good("versions").out
    listed = shown.good("versions", "--json").json()["versions"]
    assert [one["hidden_proofs"] for one in listed] == [[], [], []]


def test_versions_names_the_hidden_object_in_json(hiding, key):
    """``hidden_proofs`` has the key of the object that is missing."""
    listed = hiding.good("versions", "--json").json()["versions"]
    assert [one["hidden_proofs"] for one in listed] == [[], [key], []]


def test_show_names_the_hidden_object(hiding, key):
    """The key is on a line of its own, whole, since a person looks for it in a copy of the store."""
    out = hiding.good("show", "2").out
    assert f"proof hidden: {MISSING} {key}" in on_one_line(out)
    assert f"  {key}" in out.splitlines()


def test_show_names_the_hidden_object_in_json(hiding, key):
    """``hidden_proofs`` of the version that is shown has the key."""
    assert hiding.good("show", "2", "--json").json()["hidden_proofs"] == [key]


def test_show_of_another_version_says_nothing(hiding):
    """What is hidden of version 2 is no matter of version 1."""
    done = hiding.good("show", "1")
    assert "hidden" not in done.out + done.err


def test_show_names_eight_hidden_objects_and_counts_the_others(shown):
    """Of nine that did not know of each other, the ninth is counted, and the text says where its name is."""
    made = {}
    for number in range(9):
        if number:
            shown.good("prove", "2", "--level", "2")
        path = shown.object("proofs/*/*/*")
        made[path] = path.read_bytes()
        path.unlink()
    for path, body in made.items():
        path.write_bytes(body)
    (shown.training / "log.txt").write_text("the very end\n")
    shown.good("backup")
    for path in made:
        path.unlink()
    out = shown.good("show", "2").out
    assert "proof hidden: 9 later proofs that were seen before are missing, and they may say" in on_one_line(out)
    assert len(re.findall("^  proofs/", out, re.MULTILINE)) == 8
    assert "  and 1 more; mlsync check names all of them\n" in out


# ---------------------------------------------------------------- what reads and restores


def test_verify_warns(hiding):
    """The version is verified all the same: what is stored came back."""
    done = hiding.good("verify", "--version", "2")
    assert on_one_line(done.err) == WARNING
    assert "1 checkpoint proved" in done.out


def test_a_restore_by_number_warns(hiding):
    """It brings the version back: its files do not depend on a proof."""
    files, said = restored(hiding, "2")
    assert (files, said) == ({b"last.pt": checkpoint(2, 0.9)}, WARNING)


@pytest.mark.parametrize("word", ["best", "resumable"])
def test_a_restore_by_a_word_passes_the_version_over(hiding, word):
    """It brings the next version back that the word fits, and names the one that it did not take."""
    files, said = restored(hiding, word)
    assert (files, said) == ({b"last.pt": checkpoint(1, 0.1)}, PASSED_OVER)


@pytest.mark.parametrize("word", ["2", "best", "resumable"])
def test_a_restore_of_what_is_shown_does_not_warn(shown, word):
    """Where the store shows all, each of them is version 2."""
    assert restored(shown, word) == ({b"last.pt": checkpoint(2, 0.9)}, "")


@pytest.mark.parametrize("word", ["best", "resumable"])
def test_a_restore_by_a_word_that_fits_no_other_version_names_it(hiding, word):
    """Without version 1 nothing is left: the error says which version was passed over, and why."""
    for path in (*hiding.repository.glob("versions/*/0000000001"), *hiding.repository.glob("copies/*/0000000001")):
        path.unlink()
    done = hiding.run("restore", "--version", word, "--to", hiding.base / "restored")
    assert done.status == 15
    assert "; version 2 passed over: later proofs are missing" in on_one_line(done.err)


# ---------------------------------------------------------------- what checks, proves and backs up


def test_check_reports_a_problem(hiding, key):
    """It ends with 33, and names the object, the version, and what its absence may mean."""
    done = hiding.run("check", "--json")
    assert done.status == 33
    text = "a later proof that was seen before is gone, and may say that a checkpoint is broken"
    assert done.json()["problems"] == [{"object": key, "text": text, "versions": [{"run": "yolo", "version": 2}]}]


def test_check_says_it_to_a_person_too(hiding, key):
    """The object comes first, then what is wrong, then the version."""
    done = hiding.run("check")
    said = on_one_line(done.out + done.err)
    assert re.search(rf"{key}: a later proof .* is gone, .* \(touches yolo/2\)", said)


def test_check_is_content_once_the_object_is_back(hiding, proved, key):
    """All is as before if the object comes back as it was."""
    (hiding.repository / key).write_bytes((proved.repository / key).read_bytes())
    hiding.good("check")
    assert "hidden" not in hiding.good("versions").out


def test_prove_warns(hiding):
    """The version is proved again all the same."""
    done = hiding.good("prove", "2", "--level", "2")
    assert on_one_line(done.err) == WARNING
    assert done.out.startswith("yolo: version 2: L2, 1 checkpoint read back")


def test_a_new_proof_does_not_take_the_place_of_the_hidden_one(hiding, key):
    """Whoever hides the proof that says broken cannot have it replaced by one that does not."""
    hiding.good("prove", "2", "--level", "2")
    assert hiding.good("show", "2", "--json").json()["hidden_proofs"] == [key]


def test_a_backup_warns(hiding):
    """The version is made, and the warning comes without anybody looking at a listing."""
    (hiding.training / "log.txt").write_text("the very end\n")
    done = hiding.good("backup")
    assert on_one_line(done.err).startswith(WARNING)
    assert done.out.startswith("yolo: version 4 ")


def test_a_backup_keeps_the_link_to_the_hidden_proof(hiding, key):
    """The newest version after it misses the proof too."""
    (hiding.training / "log.txt").write_text("the very end\n")
    hiding.good("backup")
    assert hiding.good("show", "2", "--json").json()["hidden_proofs"] == [key]
