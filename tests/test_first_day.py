"""The first day as bench/first_day plays it: its pages have its commands, and it reads pages and terminals rightly."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "bench"))

from first_day.pages import Page  # noqa: E402 - it lies with the benchmarks
from first_day.person import TWICE_PROVED  # noqa: E402
from first_day.terminal import MARKS, Shown, Terminal, broken_words  # noqa: E402

PAGE = """# A page

Replace `s3://bucket/x`
there.

**1. Install**:

```sh
one .                  # or: two install .   or: three .
```

**2. Go on**

```sh
# a comment alone
mlsync go --to \\
  DIR
```
```python
go(on=True)
```

## After it

```sh
# heading
mlsync later
```
"""


@pytest.mark.parametrize(
    ("name", "placeholder", "resume"),
    [
        ("docs/yolo.md", "s3://bucket/yolo", "yolo train resume model="),
        ("docs/huggingface.md", "s3://bucket/llm", "cd ~/llm && python train.py"),
    ],
)
def test_pages_have_the_commands_of_the_first_day(name, placeholder, resume):
    """Each step has its one command, and the placeholder in them is explained."""
    page = Page.read(ROOT, name)
    assert page.explains(placeholder)
    install = page.step(1).command("uv tool install")
    assert [way.split()[0] for way in (install.text, *install.others)] == ["uv", "pipx"]
    assert page.step(2).command("mlsync init").text.endswith("--agent")
    assert placeholder in page.step(2).command("mlsync init").text
    assert page.step(4).command("mlsync restore").text.endswith("--agent")
    assert page.step(5).command(resume)
    assert [len(page.step(number).commands()) for number in range(1, 6)] == [1, 1, 1, 1, 1]


def test_a_page_is_read_step_by_step():
    """A step ends with the next one or a heading; commands have no comments, whose "or:" gives other ways."""
    page = Page("page", PAGE)
    (install,) = page.step(1).commands()
    assert (install.text, install.others) == ("one .", ("two install .", "three ."))
    assert [one.text for one in page.step(2).commands()] == ["mlsync go --to    DIR"]
    assert [one.text for one in page.step(2).commands("python")] == ["go(on=True)"]
    assert [one.text for one in page.section("After it").commands()] == ["mlsync later"]
    assert page.explains("s3://bucket/x")
    assert not page.explains("s3://bucket/y")
    with pytest.raises(LookupError, match="no step 3"):
        page.step(3)


def test_a_terminal_types_the_passphrase_where_it_is_asked_for():
    """A command's output is what came between its start and its end, with its status; the answer is not shown."""
    words = ["bash", "--norc", "--noprofile"]
    environment = {"PATH": "/usr/bin:/bin", "PS1": "$ ", **MARKS}
    terminal = Terminal(words, environment, "open sesame")
    script = 'read -rsp "Passphrase: " word; echo; printf "%s\\n" "${#word} letters"; false'
    shown = terminal.run(script, 20)
    terminal.close()
    assert shown.status == 1
    assert [row for row in shown.rows if row] == ["Passphrase:", "11 letters"]
    assert terminal.asked == 1


def test_rows_that_break_inside_words_are_found():
    """A row breaks inside a word if the terminal's last column and the next row's first one are both of it."""
    fits, at_a_blank, inside = "x" * 80, "x" * 80 + " y", "x" * 79 + " " + "y" * 80 + "z"
    assert broken_words([fits, at_a_blank, inside]) == [inside]
    assert broken_words(["y" * 81]) == ["y" * 81]


def test_what_an_agent_says_of_proofs_is_found_across_lines():
    """Two versions with proofs, broken at any blank, end the wait, and one does not."""
    once = "version 1 in 0.6 s, 30.8 MiB stored, 5 checkpoints\n  proved to L4 on cpu\n"
    with pytest.raises(LookupError):
        Shown("agent", None, once, 0.0).find(TWICE_PROVED)
    assert Shown("agent", None, once + once.replace("\n  ", " "), 0.0).find(TWICE_PROVED)
