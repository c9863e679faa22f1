from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from checkpoint_files import MemorySource, parts_of, rezipped, torch_bytes, yolo_bytes
from mlsync.formats import content_cache as answers
from mlsync.formats.containers import read_content, read_layout
from mlsync.formats.content_cache import ContentCache
from mlsync.formats.faults import NotChecked
from mlsync.formats.layout import ContainerBroken, Content, Storage
from mlsync.formats.torch import content as torch_content


def content_of(tensors: int = 0, **facts: str) -> Content:
    return Content(tuple(Storage(str(n), n, 1, "uint8", 1) for n in range(tensors)), (), dict(facts))


class Parser:
    """Answers with what it was given, and counts how often."""

    def __init__(self, answer: Content | ContainerBroken) -> None:
        self.answer = answer
        self.calls = 0

    def __call__(self) -> Content:
        """Answer."""
        self.calls += 1
        if isinstance(self.answer, ContainerBroken):
            raise self.answer
        return self.answer


@pytest.fixture
def parsed(monkeypatch):
    """The pickles that were really parsed, from an empty memory on."""
    seen = []
    real = torch_content.unpickle
    monkeypatch.setattr(torch_content, "_CACHE", ContentCache())
    monkeypatch.setattr(torch_content, "unpickle", lambda data, *rest: seen.append(data) or real(data, *rest))
    return seen


def read(data: bytes) -> Content:
    source = MemorySource(data)
    return read_content(source, read_layout(source, "torch-zip"))


def test_a_file_that_comes_back_is_not_parsed_again(parsed):
    """The second look at equal bytes gives the same content without its pickle being read."""
    assert read(yolo_bytes()) == read(bytes(bytearray(yolo_bytes())))
    assert len(parsed) == 1


def test_another_pickle_is_another_question(parsed):
    """Two files whose pickles differ in one number have contents of their own."""
    first, second = (read(torch_bytes({"a": torch.ones(3), "epoch": epoch})) for epoch in (1, 2))
    assert (first.facts["epoch"], second.facts["epoch"]) == (1, 2)
    assert len(parsed) == 2


def test_another_layout_is_another_question(parsed):
    """The same pickle in a file whose records lie elsewhere has its storages elsewhere."""
    parts = parts_of(torch_bytes({"a": torch.ones(3)}))
    near, far = read(rezipped(parts)), read(rezipped({"archive/filler": bytes(99), **parts}))
    assert far.storages[0].offset > near.storages[0].offset
    assert len(parsed) == 2


def test_another_byte_order_is_another_question(parsed):
    """The same pickle with another word in ``byteorder`` says so."""
    parts = parts_of(torch_bytes({"a": torch.ones(3)}))
    plain, marked = (read(rezipped(parts | {"archive/byteorder": order})) for order in (b"little", b"big"))
    assert "byteorder" not in plain.facts
    assert marked.facts["byteorder"] == "big"


def test_damage_is_found_before_anything_is_remembered(parsed):
    """A file that was good and is damaged in its pickle is refused, whatever was said of it before."""
    data = yolo_bytes()
    read(data)
    place = read_layout(MemorySource(data), "torch-zip").extents[0].offset + 50
    with pytest.raises(ContainerBroken, match="CRC-32 differs"):
        read(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


@pytest.mark.parametrize("kind", [ContainerBroken, NotChecked])
def test_a_fault_is_told_again_in_the_same_words(kind):
    """What was raised once is raised each time: its kind, reason, record and offset."""
    parser = Parser(kind("no sense", record="data/0", offset=7))
    memory = ContentCache()
    told = []
    for _ in range(3):
        with pytest.raises(ContainerBroken) as caught:
            memory.of(b"key", parser)
        told.append((type(caught.value), str(caught.value), caught.value.record, caught.value.offset))
    assert told == [(kind, "no sense (record 'data/0', offset 7)", "data/0", 7)] * 3
    assert parser.calls == 1


def test_a_remembered_fault_holds_no_graph():
    """The frames through which a fault came, with all that they held, are not kept."""

    class Graph:
        pass

    def parse() -> Content:
        graph = Graph()
        held.append(weakref.ref(graph))
        raise ContainerBroken("no sense")

    held: list[weakref.ref[Graph]] = []
    memory = ContentCache()
    with pytest.raises(ContainerBroken):
        memory.of(b"key", parse)
    gc.collect()
    assert held[0]() is None


def test_other_errors_are_not_remembered():
    """A source that could not be read says nothing of the bytes."""

    def parse() -> Content:
        raise OSError("gone")

    memory = ContentCache()
    with pytest.raises(OSError, match="gone"):
        memory.of(b"key", parse)
    assert memory.of(b"key", Parser(content_of())) == content_of()


def test_what_a_caller_does_to_its_answer_stays_with_it():
    """Facts that are added to one answer are not in the next."""
    memory = ContentCache()
    memory.of(b"key", Parser(content_of(epoch="1"))).facts["epoch"] = "2"
    assert memory.of(b"key", Parser(content_of())).facts == {"epoch": "1"}


def test_few_answers_are_kept():
    """The oldest answer goes when there are too many; one that was asked for again is young."""
    memory = ContentCache()
    for key in range(answers.ENTRIES_MAX):
        memory.of(bytes([key]), Parser(content_of()))
    memory.of(bytes([0]), Parser(content_of()))
    memory.of(b"one more", Parser(content_of()))
    kept, lost = Parser(content_of()), Parser(content_of())
    memory.of(bytes([0]), kept)
    memory.of(bytes([1]), lost)
    assert (kept.calls, lost.calls) == (0, 1)


def test_no_more_tensors_are_kept_than_fit(monkeypatch):
    """Old answers make room for a large new one; one that is larger than all together is kept until the next question.

    It is given up before that is answered.
    """
    monkeypatch.setattr(answers, "WEIGHT_MAX", 10)
    memory = ContentCache()
    small, large, huge = Parser(content_of(4)), Parser(content_of(8)), Parser(content_of(11))
    for parser in (small, large, huge, huge, large, small, huge):
        memory.of(str(id(parser)).encode(), parser)
    assert (small.calls, large.calls, huge.calls) == (2, 1, 2)


def test_a_large_answer_is_gone_before_the_next_question_is_answered(monkeypatch):
    """Two checkpoints of many tensors are never in memory at once."""
    monkeypatch.setattr(answers, "WEIGHT_MAX", 10)
    memory = ContentCache()
    memory.of(b"large", Parser(content_of(11)))
    seen = []
    memory.of(b"next", lambda: seen.append(memory._large) or content_of(11))
    assert seen == [None]


def test_threads_get_the_same_answers(monkeypatch):
    """Many threads that ask for more than is kept get what each asked for."""
    monkeypatch.setattr(answers, "ENTRIES_MAX", 3)
    memory = ContentCache()

    def ask(number: int) -> bool:
        key = bytes([number % 7])
        return memory.of(key, Parser(content_of(number % 7))) == content_of(number % 7)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(2000)))
    assert memory._weight == sum(answer.weight for answer in memory._kept.values())
