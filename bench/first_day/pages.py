"""Pages of the documentation as a person follows them: numbered steps or sections, and the commands in each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_STEP = re.compile(r"^\*\*(?P<number>\d+)\. ", re.MULTILINE)
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^ *```(?P<language>\w*)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s+#\s+(?P<comment>.*)$")
_OTHERWISE = re.compile(r"\bor: +(?P<command>\S.*?)(?= {2,}|;|$)")


@dataclass(frozen=True)
class Command:
    """A line of a page's block. *others* are what its comment says after "or:"; *page* is where it comes from."""

    text: str
    others: tuple[str, ...]
    language: str
    page: Page

    @property
    def program(self) -> str:
        """The first word."""
        return self.text.split()[0]


@dataclass(frozen=True)
class Part:
    """A numbered step or a section of a page."""

    text: str
    page: Page

    def commands(self, language: str = "sh") -> list[Command]:
        """All lines of the blocks in *language*, in their order."""
        return [
            _command(line, language, self.page)
            for block in _BLOCK.finditer(self.text)
            if block["language"] == language
            for line in block["body"].replace("\\\n", " ").splitlines()
            if line.strip() and not line.strip().startswith("#")
        ]

    def command(self, beginning: str, language: str = "sh") -> Command:
        """The one line that begins with these words; it is an error if the page has none or several."""
        found = [one for one in self.commands(language) if one.text.startswith(beginning)]
        if len(found) != 1:
            raise LookupError(f"{self.page.name} has {len(found)} lines with {beginning!r} here: {self.text[:60]!r}")
        return found[0]


@dataclass(frozen=True)
class Page:
    """A page, by its path in the repository."""

    name: str
    text: str

    @classmethod
    def read(cls, clone: Path, name: str) -> Page:
        """The page as it is in a clone."""
        return cls(name, (clone / name).read_text())

    def step(self, number: int) -> Part:
        """The part that begins with ``**number. ``, up to the next step or heading."""
        found = next((match for match in _STEP.finditer(self.text) if int(match["number"]) == number), None)
        if found is None:
            raise LookupError(f"{self.name} has no step {number}")
        return self._until(found.end(), _STEP)

    def section(self, title: str) -> Part:
        """The section with this heading, up to the next heading."""
        found = next((match for match in _HEADING.finditer(self.text) if match["title"] == title), None)
        if found is None:
            raise LookupError(f"{self.name} has no section {title!r}")
        return self._until(found.end(), _HEADING)

    def _until(self, begin: int, end: re.Pattern[str]) -> Part:
        """The text from *begin* to the next heading or *end*; what looks like a heading in a block is none."""
        in_blocks = [range(block.start(), block.end()) for block in _BLOCK.finditer(self.text)]
        ends = (
            match.start()
            for pattern in (end, _HEADING)
            for match in pattern.finditer(self.text, begin)
            if not any(match.start() in block for block in in_blocks)
        )
        return Part(self.text[begin : min(ends, default=len(self.text))], self)

    def explains(self, placeholder: str) -> bool:
        """Whether the page tells the reader to replace it."""
        return f"Replace `{placeholder}`" in " ".join(self.text.split())


def _command(line: str, language: str, page: Page) -> Command:
    comment = _COMMENT.search(line)
    others = _OTHERWISE.finditer(comment["comment"]) if comment else ()
    text = line[: comment.start()] if comment else line
    return Command(text.strip(), tuple(match["command"].strip() for match in others), language, page)
