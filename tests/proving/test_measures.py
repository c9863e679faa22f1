"""What a command said: numbers by name, and what is refused."""

from __future__ import annotations

import pytest

from mlsync.proving.measures import BYTES_MAX, MeasuresUnreadable, read_measures

RESULTS = b"                  epoch,      metrics/mAP50(B)\n 1, 0.25\n 2, 0.5\n"


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        (b'{"accuracy": 0.5, "count": 3}', {"accuracy": 0.5, "count": 3.0}),
        (b'{"val": {"loss": 0.5, "name": "x", "all": [1, 2]}, "ok": true}', {"val.loss": 0.5}),
        (b'\xef\xbb\xbf{"a": 1}\n', {"a": 1.0}),
        (b'{"step": 1, "loss": 2}\n{"step": 2, "loss": 1}\n', {"loss": 1.0, "step": 2.0}),
        (b"accuracy 0.93\nloss = 0.25\nmetrics/mAP50(B): -1e-3\ntop 5 .5\n", None),
        (RESULTS, {"epoch": 2.0, "metrics/mAP50(B)": 0.5}),
        (b"a\tb\n1\t2\n", {"a": 1.0, "b": 2.0}),
        (b'name,loss\n"x, y",0.5\n', {"loss": 0.5}),
    ],
    ids=["object", "nested", "bom", "lines", "pairs", "results.csv", "tabs", "quoted"],
)
@pytest.mark.parametrize("may_say_more", [False, True])
def test_each_form_is_read(said, numbers, may_say_more):
    """Objects, lines of objects, names with values and tables give numbers by name."""
    if numbers is None:
        numbers = {"accuracy": 0.93, "loss": 0.25, "metrics/mAP50(B)": -0.001, "top 5": 0.5}
    assert read_measures(said, may_say_more=may_say_more).numbers == numbers


def test_what_a_command_says_besides_is_passed_over():
    """Lines of a log that are no number with a name are none, and a file that has such lines is refused."""
    said = b"[12:01:02] loss 9\nloading model ...\n100%|####| 5/5\naccuracy 0.5\n1 2\n"
    assert read_measures(said, may_say_more=True).numbers == {"accuracy": 0.5}
    with pytest.raises(MeasuresUnreadable, match="a line is no number with a name: "):
        read_measures(said)


def test_numbers_that_are_none_are_named():
    """NaN and infinity are left out with a note, and nothing is left of an output that has no other."""
    found = read_measures(b'{"loss": NaN, "a": 1e999, "b": 2}')
    assert (found.numbers, found.notes) == ({"b": 2.0}, ["loss, a: no finite number"])
    with pytest.raises(MeasuresUnreadable, match="loss: no finite number"):
        read_measures(b"loss nan\n")
    with pytest.raises(MeasuresUnreadable, match="a: no finite number"):
        read_measures(b'{"a": ' + b"9" * 6000 + b"}")


def test_of_a_name_that_comes_again_the_last_counts():
    """A log that repeats a name gives its last value, with a note; one object or heading with it twice is refused."""
    found = read_measures(b"loss 2\nloss 1\n")
    assert (found.numbers, found.notes) == ({"loss": 1.0}, ["loss: said more than once, the last counts"])
    for said in (b'{"a": 1, "a": 2}', b"a,a\n1,2\n"):
        with pytest.raises(MeasuresUnreadable, match="a is there twice"):
            read_measures(said)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "it is empty"),
        (b" \n\n", "it is empty"),
        (b"acc\xff 1\n", "it is not UTF-8 at byte 3"),
        (b"a 1\0\n", "zero byte"),
        (b'{"loss": 1}\n{"lo', "last line is no whole JSON object"),
        (b"a,b\n1,2\n3", "last row has another number of columns"),
        (b"1,2\n3,4\n", "no number with a name"),
        (b'{"a": true}', "no number in it"),
        (b'{"a":' * 5000, "nested too deep|no number|no whole"),
        (b'{"a": {"b": {"c": {"d": {"e": 1}}}}}', "nested too deep"),
        (b'{"%s": 1}' % (b"x" * 101), "above 100 bytes"),
        (b'{"": 1}', "name that is empty"),
        ('{"a\u202eb": 1}'.encode(), "unprintable"),
        (b"".join(b"n%d 1\n" % at for at in range(101)), "more than 100 numbers"),
        (b"x" * (BYTES_MAX + 1), "longer than 1 MiB"),
        (b"accuracy 95%\n", "no number with a name"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_with_a_reason(said, why):
    """What is cut, empty, no text, too long, too deep or without names is refused, and the reason is said."""
    with pytest.raises(MeasuresUnreadable, match=why):
        read_measures(said)


def test_the_largest_output_is_read_at_once():
    """A megabyte of the worst lines takes no longer than it takes to look at each once."""
    for said in (
        b"x" + b" " * (BYTES_MAX - 2) + b"y",
        b"a " * (BYTES_MAX // 2),
        b"a=" * (BYTES_MAX // 2),
        b"," * BYTES_MAX,
    ):
        with pytest.raises(MeasuresUnreadable):
            read_measures(said)
    names = b"{" + b",".join(b'"%d":1' % at for at in range(80_000)) + b',"0":1}'
    with pytest.raises(MeasuresUnreadable, match="0 is there twice"):
        read_measures(names)
