"""Writes ``docs/pictures/line.svg``, the picture of the whole line: ``python docs/write_line.py``."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

PICTURE: Final = Path(__file__).with_name("pictures") / "line.svg"
WIDTH: Final = 900
HEIGHT: Final = 372
BOX_WIDTH: Final = 118
BOX_HEIGHT: Final = 66
_STYLE: Final = """\
<style>
  .ground { fill: #ffffff; stroke: #d0d7de; }
  .machine { fill: none; stroke: #8c959f; stroke-dasharray: 5 4; }
  .box { fill: #eef4fb; stroke: #4078c0; stroke-width: 1.5; }
  .store { fill: #eef8f0; stroke: #2f8f4e; stroke-width: 1.5; }
  text { fill: #1f2328; font-family: ui-sans-serif, system-ui, "DejaVu Sans", Arial, sans-serif; text-anchor: middle; }
  .name { font-weight: 600; font-size: 15px; }
  .note { fill: #59636e; font-size: 12px; }
  .line { fill: none; stroke: #59636e; stroke-width: 1.6; }
  .head { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22; stroke: #30363d; }
    .machine { stroke: #6e7681; }
    .box { fill: #16263b; stroke: #6cb0ff; }
    .store { fill: #14291b; stroke: #56d364; }
    text { fill: #e6edf3; }
    .note { fill: #9da7b1; }
    .line { stroke: #9da7b1; }
    .head { fill: #9da7b1; }
  }
</style>
<defs>
  <marker id="to" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto">
    <path class="head" d="M0 0 L10 5 L0 10 z"/>
  </marker>
</defs>
"""
_TITLE: Final = (
    "A training saves a checkpoint; mlsync stores it encrypted, reads it back and proves it, evaluates it, registers "
    "it in MLflow and tells a chat; another machine asks MLflow for the champion, gets the bytes from the bucket, and "
    "resumes"
)
# The steps, left to right: what each is called, and what it does.
STEPS: Final = (
    ("train", "saves last.pt,", "best.pt"),
    ("keep", "encrypts,", "deduplicates"),
    ("prove", "reads it back,", "loads it"),
    ("evaluate", "your command,", "or model.val"),
    ("register", "alias champion,", "no upload"),
    ("tell", "new best,", "broken, away"),
)
_ELSEWHERE: Final = ("models:/yolo@champion", "goes on with the next epoch")


def box(left: float, top: float, name: str, *notes: str, kind: str = "box", width: int = BOX_WIDTH) -> str:
    """Return a box with its name and notes in it."""
    middle = left + width / 2
    lines = [f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width}" height="{BOX_HEIGHT}" rx="6"/>']
    lines.append(f'<text class="name" x="{middle:g}" y="{top + 22:g}">{escape(name)}</text>')
    lines += [
        f'<text class="note" x="{middle:g}" y="{top + 40 + 16 * number:g}">{escape(note)}</text>'
        for number, note in enumerate(notes)
    ]
    return "\n".join(lines)


def arrow(path: str, note: str = "", x: float = 0, y: float = 0) -> str:
    """Return an arrow along *path*, with a note at *x*, *y*."""
    line = f'<path class="line" d="{path}" marker-end="url(#to)"/>'
    return line + (f'\n<text class="note" x="{x:g}" y="{y:g}">{escape(note)}</text>' if note else "")


def left_of(step: int) -> float:
    """Return where the box of a step begins."""
    return 36 + step * (BOX_WIDTH + 24)


def middle_of(step: int) -> float:
    """Return the middle of the box of a step."""
    return left_of(step) + BOX_WIDTH / 2


def picture() -> str:
    """Return the whole picture."""
    first, second, third = 54, 182, 288
    below = first + BOX_HEIGHT
    keep, prove, register, tell = (middle_of(step) for step in (1, 2, 4, 5))
    other_left, other_width = left_of(2) + 4, 2 * BOX_WIDTH + 24
    parts = [
        f'<rect class="ground" x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="8"/>',
        f'<rect class="machine" x="20" y="38" width="{WIDTH - 40}" height="{BOX_HEIGHT + 32}" rx="8"/>',
        f'<text class="note" x="{WIDTH / 2:g}" y="26">the machine that trains, unattended</text>',
        *(box(left_of(number), first, *step) for number, step in enumerate(STEPS)),
        *(
            arrow(f"M{left_of(number) + BOX_WIDTH:g} {first + 33} H{left_of(number + 1) - 3:g}")
            for number in range(len(STEPS) - 1)
        ),
        box(left_of(1) - 0, second, "bucket", "or a directory:", "versions 1, 2, 3 …", kind="store"),
        box(left_of(4), second, "MLflow", "its source is", "mlsync://…", kind="store"),
        box(left_of(5), second, "chat", "WeCom, DingTalk,", "Feishu, Slack", kind="store"),
        arrow(f"M{keep - 20:g} {below} V{second - 4}"),
        arrow(f"M{left_of(1) + BOX_WIDTH:g} {second + 22} H{prove:g} V{below + 5}"),
        arrow(f"M{register:g} {below} V{second - 4}"),
        arrow(f"M{tell:g} {below} V{second - 4}"),
        f'<rect class="machine" x="{left_of(2) - 12:g}" y="272" width="{other_width + 32}" height="88" rx="8"/>',
        box(
            other_left,
            third - 5,
            "another machine",
            "models:/yolo@champion",
            "goes on with the next epoch",
            width=other_width,
        ),
        arrow(f"M{keep:g} {second + BOX_HEIGHT} V{third + 28} H{other_left - 4:g}", "the bytes", keep - 36, third - 14),
        arrow(
            f"M{register:g} {second + BOX_HEIGHT} V{third + 28} H{other_left + other_width + 4:g}",
            "where they are",
            register + 54,
            third - 14,
        ),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">\n'
    )
    return f'{head}<title id="title">{escape(_TITLE)}</title>\n{_STYLE}' + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    PICTURE.write_text(picture())
