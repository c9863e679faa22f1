"""How text and tables are broken into lines."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlsync.app.wrapping import cells, glued, joined, wrap
from mlsync.cli.terminal.table import TextTable

WORDS = st.text(st.sampled_from("abc/.-,模\u0301é"), min_size=1, max_size=30).filter(str.isprintable)


@given(st.lists(WORDS), st.integers(1, 60), st.sampled_from(("", "  ", "note: ")), st.sampled_from(("", "    ")))
def test_lines_are_broken_between_words_alone(words, width, first, rest):
    """All words are there, whole and in order; a line is wider than asked for only if it is one word."""
    lines = wrap(" ".join(words), width, first=first, rest=rest)
    assert " ".join(lines).split() == [*first.split(), *words]
    for number, line in enumerate(lines):
        prefix = rest if number else first
        assert cells(line) <= width or len(line.removeprefix(prefix).split()) <= 1


@given(st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join)), st.integers(1, 60))
@example(["a b"], 3)
def test_items_of_a_list_stay_together_if_they_fit(items, width):
    """An item is broken only if it is wider than a line."""
    lines = wrap(joined(items), width)
    assert " ".join(lines).split() == ", ".join(items).split()
    for line in lines:
        assert cells(line) <= width or " " not in line
    for item in items:
        if cells(item) < width:
            assert any(item in line for line in lines)


def test_wide_letters_count_twice():
    """A Chinese letter takes two columns of a terminal."""
    assert wrap("模型 模型 模型", 9) == ["模型 模型", "模型"]


def test_blanks_stay():
    """An indented text stays indented, and a name with two blanks is shown with two unless it is broken there."""
    assert wrap("a  b c", 5) == ["a  b", "c"]
    assert wrap("a  b", 3) == ["a", "b"]
    assert wrap(glued("a  b") + " c", 4) == ["a  b", "c"]
    assert wrap("  a b", 4, rest="    ") == ["  a", "    b"]
    assert wrap("", 9) == [""]


def filled(*remarks):
    """A table of two columns and a row for each tuple of remarks."""
    table = TextTable(("SIZE", "NAME"), (0,), "; ")
    for number, texts in enumerate(remarks):
        table.row(f"{10**number} B", f"name{number}", remarks=texts)
    return table


def test_remarks_stand_beside_rows_if_all_fit():
    """In a wide table remarks are a last column."""
    assert list(filled(("a b", "c"), (), ("d",)).lines(24)) == [
        " SIZE  NAME",
        "  1 B  name0  a b; c",
        " 10 B  name1",
        "100 B  name2  d",
    ]


def test_a_remark_that_just_fits_stands_beside_its_row():
    """The last column of the terminal is used, and no more."""
    table = filled(("a b", "c"))
    assert list(table.lines(19))[1] == " 1 B  name0  a b; c"
    assert list(table.lines(18))[1] == " 1 B  name0"


def test_remarks_stand_below_rows_where_one_does_not_fit():
    """In a narrow table remarks are lines of their own, indented and broken between words."""
    assert list(filled(("a b", "c d e"), ("d",)).lines(15)) == [
        "SIZE  NAME",
        " 1 B  name0",
        "      a b;",
        "        c d e",
        "10 B  name1",
        "      d",
    ]


def test_headings_and_columns_without_text():
    """A heading stands between rows after an empty line; a column that is empty is left out; no row, no headers."""
    table = TextTable(("A", "B", "C"))
    table.row("1", "", "3")
    table.head("more/: and so on")
    table.row("22", "", "33")
    assert list(table.lines(10)) == ["A   C", "1   3", "", "more/: and", "  so on", "22  33"]
    assert (table.width(), table.fits(6), table.fits(5)) == (6, True, False)
    assert list(TextTable(("A",)).lines(10)) == []


@pytest.mark.parametrize("width", [20, 40, 80])
@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9), st.lists(st.text(max_size=20), max_size=3))))
def test_nothing_that_a_terminal_obeys_is_in_a_table(width, rows):
    """Whatever names hold, each line is one line, and cells stay aligned."""
    table = TextTable(("FIRST", "SECOND"))
    for first, second, remarks in rows:
        table.row(first, second, remarks=remarks)
    for line in table.lines(width):
        assert line.isprintable()


def test_a_name_with_blanks_is_one_word():
    """What is glued is broken only where it does not fit."""
    assert wrap(f"a {glued('b c')}", 4) == ["a", "b c"]
    assert wrap(f"a {glued('b c')}", 2) == ["a", "b", "c"]
    assert wrap(f"a {glued('bb cc')}", 5, rest="  ") == ["a bb", "  cc"]
