"""The pictures of the documents: there, small, made by a script, and shown without a server."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SVG_BYTES_MAX = 60_000


@pytest.fixture(scope="module")
def writer():
    """The script; it needs pyte, and nothing else of mlsync does."""
    pytest.importorskip("pyte")
    spec = importlib.util.spec_from_file_location("write_screens", DOCS / "write_screens.py")
    module = sys.modules["write_screens"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["write_screens"]


def words(picture: str) -> str:
    """The text of a picture, line by line."""
    return "\n".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture)).replace("&#160;", " ")


def test_each_picture_is_there(writer):
    """docs/screens holds each picture that the script makes, and no other file."""
    wanted = {f"{name}{wide}-{theme}.svg" for name in writer.SHOTS for wide in writer.WIDTHS for theme in writer.THEMES}
    assert {file.name for file in (DOCS / "screens").iterdir()} == wanted


def test_pictures_are_small_and_ask_no_server():
    """A picture has less than 60 kB, and no address in it but the name of SVG's language."""
    for file in (DOCS / "screens").iterdir():
        picture = file.read_text()
        assert file.stat().st_size < SVG_BYTES_MAX, file
        assert set(re.findall(r"https?://[^\"'\s]+", picture)) <= {"http://www.w3.org/2000/svg"}, file


def test_the_script_draws_what_a_command_prints(writer, tmp_path):
    """The picture of the help shows its prompt and its commands, at both widths and in both themes."""
    stage, pictures = tmp_path / "stage", tmp_path / "pictures"
    stage.mkdir()
    writer.write(["help"], writer.Stage(stage), pictures)
    drawn = [file.read_text() for file in sorted(pictures.iterdir())]
    assert len(drawn) == 4
    assert all("$ mlsync --help" in words(picture) and "restore" in words(picture) for picture in drawn)
    assert len(set(drawn)) == 4


def test_pictures_are_of_a_machine_with_systemd(writer, tmp_path):
    """The next steps on a picture name the service, also where the picture is made in a container."""
    config = tmp_path / "mlsync.toml"
    config.write_text(
        f'repository = "{tmp_path}/repository"\nstate_directory = "{tmp_path}/state"\n'
        f'[[watch]]\ndirectory = "{tmp_path}/runs"\nrun = "yolo"\n'
    )
    lines = writer.Shot("mlsync status", lambda _: config).take(writer.Stage(tmp_path), 80)
    assert any("service install" in line.plain for line in lines), lines


def test_a_bar_is_drawn_as_it_stands(writer):
    """Of a line that a command writes again and again, the last state is drawn, in its colours."""
    terminal = writer.Terminal(80, 24)
    terminal.run(("printf", r"10 %%\r\033[32m90 %%\033[0m"), {})
    picture = writer.drawn(terminal.lines()[1:], 80, "a bar", "dark")
    assert "90 %" in words(picture)
    assert "10 %" not in words(picture)
    assert "#3fb950" in picture
