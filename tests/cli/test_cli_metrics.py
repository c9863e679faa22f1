"""``mlsync metrics``: what a person is shown of the logs of trainers, and what programs get."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest
from machine import copy_of

MADE = Path(__file__).parents[1] / "formats/made"
ULTRALYTICS = (MADE / "logs/ultralytics.csv").read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="session")
def template(tmp_path_factory, server, initial):
    """The template of machines with three versions of a training with Ultralytics."""
    machine = copy_of(initial, tmp_path_factory.mktemp("metrics"), server)
    (machine.training / "exp").mkdir(parents=True)
    for epochs in (4, 11, 25):
        (machine.training / "exp/results.csv").write_bytes(b"".join(ULTRALYTICS[: epochs + 1]))
        machine.good("backup")
    return machine


@pytest.fixture
def trained(tmp_path, server, template):
    """A machine with three versions of a training with Ultralytics, and without the training's directory."""
    return copy_of(template, tmp_path / "trained", server)


def test_plots_and_a_table_fit_a_terminal(trained):
    """The best known measures are drawn, the versions are on the axis, and the table ends with the last row."""
    lines = trained.good("metrics").out.splitlines()
    assert lines[0] == "yolo, version 3: exp/results.csv of Ultralytics, 25 rows, up to epoch 25"
    assert lines[2] == "metrics/mAP50-95(B): 0.00303 at epoch 25, highest 0.576 at epoch 6"
    assert lines[3].startswith(" 0.576 ┤")
    assert "val/box_loss: 3.16 at epoch 25, lowest 0 at epoch 10" in lines
    assert max(map(len, lines[:-1])) <= 80  # a sentence is broken on a terminal only
    axis = next(number for number, line in enumerate(lines) if "└" in line)
    assert lines[axis].count("┴") == 3
    assert lines[axis + 1].split() == ["epoch", "1", "25"]
    assert lines[axis + 2].split() == ["version", "1", "2", "3"]
    rows = [line.split() for line in lines if line.strip()[:2].isdecimal()]
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(16, 26)]
    assert rows[-1][-1] == "3"
    assert lines[-1].startswith("also logged: ")


def test_the_table_says_which_version_holds_a_row(trained):
    """A version stands at the last row of its copy of the log, whatever rows are shown."""
    out = trained.good("metrics", "yolo", "--name", "time", "--last", "0").out
    rows = [line.split() for line in out.splitlines() if line.strip()[:1].isdecimal() and "┤" not in line]
    assert {row[0]: row[2] for row in rows if len(row) > 2} == {"4": "1", "11": "2", "25": "3"}


def test_an_older_version_has_the_log_as_it_was(trained):
    """With --version the rows end where that version's do, and only versions up to it are marked."""
    value = trained.good("metrics", "--version", "2", "--json").json()
    assert [row["epoch"] for row in value["rows"]] == list(range(1, 12))
    assert value["marks"] == [
        {"version": 1, "epoch": 4, "step": None},
        {"version": 2, "epoch": 11, "step": None},
    ]


def test_names_are_given_in_part_and_as_patterns(trained):
    """A name is matched as a whole, in part, and by * and ?, in any case; one that names nothing is refused."""

    def named(*patterns):
        arguments = [word for pattern in patterns for word in ("--name", pattern)]
        return trained.good("metrics", *arguments, "--json").json()["names"]

    assert named("metrics/mAP50(B)") == ["metrics/mAP50(B)"]
    assert named("map50") == ["metrics/mAP50-95(B)", "metrics/mAP50(B)"]
    assert named("LR/*", "val/box*") == ["lr/pg0", "lr/pg1", "lr/pg2", "val/box_loss"]
    done = trained.run("metrics", "--name", "mAP59")
    assert done.status == 113
    assert "did you mean metrics/mAP50-95(B) or metrics/mAP50(B)?" in done.err
    assert "there are metrics/mAP50-95(B)" in trained.run("metrics", "--name", "zzz").err


def test_csv_is_read_by_other_programs(trained):
    """It has a line for each row with all metrics, exactly, and the versions."""
    rows = list(csv.DictReader(trained.good("metrics", "--csv").out.splitlines()))
    theirs = list(csv.DictReader(line.decode() for line in ULTRALYTICS))
    assert len(rows) == 25
    for ours, other in zip(rows, theirs, strict=True):
        assert {name: float(ours[name]) for name in other} == {name: float(value) for name, value in other.items()}
    assert rows[3]["versions"] == "1"
    assert trained.run("metrics", "--csv", "--json").status == 2


def test_without_a_log_the_error_says_what_was_looked_for(machine):
    """A version without a log ends with 112; a file that is none says so, and any file is read that is one."""
    (machine.training / "results.csv").unlink(missing_ok=True)
    (machine.training / "mine.csv").write_text("epoch,loss\n1,2.5\n")
    machine.good("backup")
    done = machine.run("metrics")
    assert done.status == 112
    assert "looked for results.csv, metrics.csv" in done.err
    assert machine.run("metrics", "--log", "none").status == 112
    assert machine.good("metrics", "--log", "mine.csv", "--json").json()["rows"][0]["values"] == {"loss": 2.5}
    (machine.training / "mine.data").write_text('{"step": 1, "loss": 3.5}\n')
    machine.good("backup")
    assert machine.good("metrics", "--log", "mine.data", "--json").json()["rows"][0]["values"] == {"loss": 3.5}


def test_of_several_logs_one_is_chosen_and_the_others_are_named(machine):
    """The training that logged last counts; --log names another, by its path or its directory."""
    for name, value in (("train", 1), ("train2", 2)):
        (machine.training / name).mkdir()
        (machine.training / name / "results.csv").write_text(f"epoch,x\n1,{value}\n")
    os.utime(machine.training / "train/results.csv", (1, 1))
    (machine.training / "results.csv").unlink(missing_ok=True)
    machine.good("backup")
    out = machine.good("metrics").out
    assert "train2/results.csv" in out
    assert "other logs, for --log: train/results.csv" in out
    for path in ("train", "train/", "./train/results.csv"):
        assert machine.good("metrics", "--log", path, "--json").json()["rows"][0]["values"] == {"x": 1}


def test_hostile_names_and_numbers_do_no_harm(machine):
    """Control characters are escaped, long names cut in headers, and numbers that are none are shown as such."""
    (machine.training / "results.csv").write_bytes(
        b"epoch,\x1b[31mred,loss," + b"x" * 150 + b"\n1,1,nan,1e308\n2,2,inf,-1e308\n3,3,0.5,0\n"
    )
    machine.good("backup")
    done = machine.good("metrics")
    assert "\x1b" not in done.out
    assert "2 of 3 not finite" in done.out
    assert " nan " in done.out
    values = machine.good("metrics", "--json").json()["rows"][0]["values"]
    assert values["loss"] == "nan"
    assert json.loads(json.dumps(values))["\x1b[31mred"] == 1


def test_a_directory_whose_name_is_no_utf_8_has_a_log(machine):
    """It is printed with escapes, and read by its bytes."""
    place = os.fsencode(machine.training) + b"/\xff\xfe"
    os.mkdir(place)
    with open(place + b"/results.csv", "wb") as file:
        file.write(b"epoch,x\n1,2\n")
    machine.good("backup")
    out = machine.good("metrics", "--log", os.fsdecode(b"\xff\xfe")).out
    assert "\\xff\\xfe/results.csv of CSV, 1 row" in out


def test_a_picture_is_a_png_of_all_plots(trained, tmp_path):
    """The picture has a plot for each metric that was asked for; a file that is there is replaced."""
    image = pytest.importorskip("PIL.Image")
    file = tmp_path / "curves.png"
    file.write_bytes(b"older")
    trained.good("metrics", "--name", "loss", "--png", file)
    with image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 56 + 6 * 224 + 70))
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert min(map(sum, colors)) < 200  # ink
    assert max(map(sum, colors)) > 700  # paper
    assert [one.name for one in tmp_path.iterdir() if "curves" in one.name] == ["curves.png"]


def test_a_picture_that_cannot_be_written_is_an_error(trained):
    """Without Pillow the error says what to install; with it, that the place cannot be written."""
    done = trained.run("metrics", "--png", "/nonexistent/x.png")
    assert done.status == 2
    assert "mlsync-agent[plot]" in done.err or "cannot be written" in done.err
