"""Writes the pictures in ``docs/screens/``: ``python docs/write_screens.py [NAME ...]``.

Each picture is what a real command printed to a real terminal, here a pty that pyte interprets and rich draws as SVG:
at 80 columns and at 120 ("-wide"), in dark and in light. All of them together take some minutes, most of it for the
demo, which runs once for each width and once more to be looked at.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import shutil
import signal
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Final

import pyte
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

SCREENS = Path(__file__).with_name("screens")
WIDTHS: Final = {"": 80, "-wide": 120}
# As many lines as any command prints here; what stays empty is cut off.
_TALL = 100
_USUAL_ROWS = 24
_PATIENCE_S = 300.0
_BIG_FILE_BYTES = 400 << 20
_LEAST, _MOST = 0.4, 0.8
_PROGRAM: Final = """#!{python}
from pathlib import Path

from mlsync.cli.main import main
from mlsync.service.unit import booted

booted.SYSTEMD_RUNS = Path("{systemd}")
main()
"""
_SHARE = re.compile(r"([\d.]+)/([\d.]+) MiB")

# The colours of two common terminals; rich has themes too, whose light one has yellow on white.
THEMES: Final = {
    "dark": TerminalTheme(
        (22, 27, 34),
        (230, 237, 243),
        [
            (72, 79, 88),
            (255, 123, 114),
            (63, 185, 80),
            (210, 153, 34),
            (88, 166, 255),
            (188, 140, 255),
            (57, 197, 207),
            (177, 186, 196),
        ],
    ),
    "light": TerminalTheme(
        (255, 255, 255),
        (31, 35, 40),
        [
            (36, 41, 47),
            (207, 34, 46),
            (17, 99, 41),
            (77, 45, 0),
            (9, 105, 218),
            (130, 80, 223),
            (27, 124, 131),
            (110, 119, 129),
        ],
    ),
}
# rich's own form loads a font from a server; this one takes a font of the reader's machine. It has no clip for the
# whole window, which would cut the descenders of the last line; each line is clipped by itself.
_SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 16px; font-family: ui-sans-serif, system-ui, "DejaVu Sans", Arial, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Terminal:
    """A terminal of *columns* and *rows* in which one command runs."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        until: Callable[[Sequence[str]], bool] = lambda _: False,
    ) -> None:
        """Show the prompt and run a command to its end, or stop it when *until* holds of the lines on the screen."""
        self._stream.feed(f"$ {' '.join(command)}\r\n".encode())
        child, terminal = pty.fork()
        if child == 0:
            os.execvpe(command[0], command, environment)  # noqa: S606 - our own program
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
        try:
            self._follow(terminal, until)
        finally:
            os.kill(child, signal.SIGINT)
            os.close(terminal)
            os.waitpid(child, 0)

    def _follow(self, terminal: int, until: Callable[[Sequence[str]], bool]) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline_s:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:
                # What Linux answers when the last process of a terminal ended.
                return
            self._stream.feed(data)
            if until(self.screen.display):
                return
        raise TimeoutError(f"still running after {_PATIENCE_S:.0f} s")

    def lines(self) -> list[Text]:
        """Return what the screen shows, without empty lines above and below."""
        rows = [self.screen.buffer[number] for number in range(self.screen.lines)]
        texts = []
        for row in rows:
            text = Text(end="")
            # Letters of one style are one text of the picture.
            for style, chars in groupby((row[column] for column in range(self.screen.columns)), key=_style):
                text.append("".join(char.data for char in chars), style)
            text.rstrip()
            texts.append(text)
        shown = [number for number, text in enumerate(texts) if text.plain]
        return texts[shown[0] : shown[-1] + 1]


def _style(char: Char) -> Style:
    def colour(name: str) -> str | None:
        if name == "default":
            return None
        if re.fullmatch("[0-9a-f]{6}", name):
            return f"#{name}"
        # The name that terminals of the seventies had for a dark yellow.
        return name.replace("brown", "yellow").replace("bright", "bright_")

    return Style(
        color=colour(char.fg),
        bgcolor=colour(char.bg),
        bold=char.bold or None,
        italic=char.italics or None,
        underline=char.underscore or None,
        reverse=char.reverse or None,
    )


def drawn(lines: Sequence[Text], columns: int, title: str, theme: str) -> str:
    """Return a picture of the lines as SVG, the same each time."""
    console = Console(record=True, width=columns, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(line, no_wrap=True, overflow="crop", crop=True)
    picture = console.export_svg(title=title, theme=THEMES[theme], code_format=_SVG, unique_id="screen")
    # rich frames the window in white, which nobody sees on a white page.
    return picture.replace("rgba(255,255,255,0.35)", "rgba(128,128,128,0.5)")


@dataclass(frozen=True)
class Stage:
    """Where the commands run: a home without a configuration, and a demo that was kept, made when it is needed."""

    directory: Path

    @property
    def home(self) -> Path:
        """A home of a user who has nothing yet."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return home

    @cached_property
    def demo(self) -> Path:
        """The directory of a demo that was played."""
        place = self.directory / "demo"
        Terminal(80, _USUAL_ROWS).run(("mlsync", "demo", "--keep", "--directory", str(place)), self.environment())
        return place

    @cached_property
    def big(self) -> Path:
        """A configuration whose run has one large file, which takes some time to store."""
        place = self.directory / "big"
        (place / "runs").mkdir(parents=True)
        with (place / "runs" / "optimizer.bin").open("wb") as stream:
            for _ in range(_BIG_FILE_BYTES >> 20):
                stream.write(os.urandom(1 << 20))
        config, secret = str(place / "mlsync.toml"), self.demo / "passphrase"
        command = ("mlsync", "init", str(place / "repository"), "--watch", str(place / "runs"), "--config", config)
        Terminal(80, _USUAL_ROWS).run((*command, "--passphrase-file", str(secret)), self.environment())
        return place / "mlsync.toml"

    @cached_property
    def programs(self) -> Path:
        """A directory with mlsync as on a machine that systemd manages, wherever the picture is made."""
        place = self.directory / "bin"
        place.mkdir()
        program = place / "mlsync"
        program.write_text(_PROGRAM.format(python=sys.executable, systemd=self.directory))
        program.chmod(0o755)
        return place

    def environment(self, config: Path | None = None) -> dict[str, str]:
        """Return an environment without what a user has set."""
        named = {} if config is None else {"MLSYNC_CONFIG": str(config)}
        path = f"{self.programs}:{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        return named | {
            "HOME": str(self.home),
            "PATH": path,
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "TMPDIR": tempfile.gettempdir(),
        }


@dataclass(frozen=True)
class Shot:
    """What is on a picture: a command, in a place with a configuration (by the stage) or without."""

    words: str
    config: Callable[[Stage], Path] | None = None
    rows: int = _TALL
    until: Callable[[Sequence[str]], bool] = lambda _: False

    def take(self, stage: Stage, columns: int) -> list[Text]:
        """Run the command and return what the terminal shows then."""
        config = None if self.config is None else self.config(stage)
        terminal = Terminal(columns, self.rows)
        terminal.run(self.words.split(), stage.environment(config), until=self.until)
        return terminal.lines()


def _of_demo(stage: Stage) -> Path:
    return stage.demo / "mlsync.toml"


def _half_done(lines: Sequence[str]) -> bool:
    """Whether a bar of the screen shows that about half is done."""
    shares = [(float(done), float(whole)) for line in lines for done, whole in _SHARE.findall(line)]
    return any(_LEAST < done / whole < _MOST for done, whole in shares if whole)


SHOTS: Final = {
    "demo": Shot("mlsync demo", rows=_USUAL_ROWS),
    "start": Shot("mlsync"),
    "status": Shot("mlsync status", _of_demo),
    "versions": Shot("mlsync versions", _of_demo),
    "show": Shot("mlsync show", _of_demo),
    "diff": Shot("mlsync diff", _of_demo),
    "check": Shot("mlsync check", _of_demo),
    "progress": Shot("mlsync backup", lambda stage: stage.big, until=_half_done),
    "help": Shot("mlsync --help"),
}


def write(names: Sequence[str], stage: Stage, directory: Path = SCREENS) -> None:
    """Write the pictures of these names, taken on a stage."""
    directory.mkdir(exist_ok=True)
    for name in names:
        for suffix, columns in WIDTHS.items():
            lines = SHOTS[name].take(stage, columns)
            for theme in THEMES:
                file = directory / f"{name}{suffix}-{theme}.svg"
                file.write_text(drawn(lines, columns, SHOTS[name].words, theme), encoding="utf-8")
                sys.stdout.write(f"{file.name}: {file.stat().st_size >> 10} KiB\n")


def main() -> None:
    """Write the pictures that the command line names, or all of them."""
    # The pictures show this name. If it is taken, this fails.
    place = Path(tempfile.gettempdir()) / "mlsync-screens"
    place.mkdir(mode=0o700)
    try:
        write(sys.argv[1:] or list(SHOTS), Stage(place))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
