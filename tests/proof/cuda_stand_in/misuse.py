"""What a program may do wrong with a GPU, each in its own words; prints what came of it. Run under the stand-in."""

from __future__ import annotations

import json
import os

import torch

SIZE = 1000
RIGHT = float(sum(range(SIZE)))


def numbers():
    return torch.arange(SIZE, dtype=torch.float32)


def pinned():
    return torch.empty(SIZE, dtype=torch.float32, pin_memory=True).copy_(numbers())


def room():
    return torch.empty(SIZE, dtype=torch.float32, device="cuda:0")


def in_order():
    """Nothing wrong: a copy, a sum, an event that is waited for."""
    side, event, there, host = torch.cuda.Stream(0), torch.cuda.Event(), room(), pinned()
    with torch.cuda.stream(side):
        there.copy_(host, non_blocking=True)
        total = there.sum()
        event.record(side)
    event.synchronize()
    return total.item()


def not_waited_for():
    side, there, host = torch.cuda.Stream(0), room(), pinned()
    with torch.cuda.stream(side):
        there.copy_(host, non_blocking=True)
        total = there.sum()
    return total.item()


def waited_for_too_early():
    side, event, there, host = torch.cuda.Stream(0), torch.cuda.Event(), room(), pinned()
    with torch.cuda.stream(side):
        event.record(side)
        there.copy_(host, non_blocking=True)
        total = there.sum()
    event.synchronize()
    return total.item()


def source_changed_too_early():
    there, host = room(), pinned()
    there.copy_(host, non_blocking=True)
    host.zero_()
    return there.sum().item()


def source_written_too_late():
    there, host = room(), torch.zeros(SIZE, pin_memory=True)
    there.copy_(host, non_blocking=True)
    host.copy_(numbers())
    return there.sum().item()


def freed_under_another_stream():
    there = numbers().to("cuda:0")
    side = torch.cuda.Stream(0)
    with torch.cuda.stream(side):
        total = there.sum()
    del there
    side.synchronize()
    return total.item()


def scratch_shared_by_streams():
    scratch, there, other = room(), numbers().to("cuda:0"), torch.zeros(SIZE).to("cuda:0")
    side, found = torch.cuda.Stream(0), []
    for _ in range(20):
        with torch.cuda.stream(side):
            torch.abs(other, out=scratch)
        torch.abs(there, out=scratch)
        found.append(scratch.sum())
    return min(total.item() for total in found)


def unpinned_source():
    return room().copy_(numbers(), non_blocking=True).sum().item()


def two_devices():
    return (room() + numbers()).sum().item()


def two_gpus():
    return (room() + torch.empty(SIZE, device="cuda:1")).sum().item()


def out_elsewhere():
    return torch.add(room(), room(), out=numbers()).sum().item()


def wrong_keyword():
    torch.cuda.set_per_process_memory_fraction(0.5, gpu=0)


def no_such_gpu():
    torch.cuda.set_device(7)


def beyond_the_bound():
    torch.cuda.set_per_process_memory_fraction(0.01, 0)
    try:
        return [torch.empty(16 << 20, dtype=torch.uint8, device="cuda:0") for _ in range(99)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def within_the_bound():
    torch.cuda.set_per_process_memory_fraction(0.01, 0)
    for _ in range(99):
        torch.empty(16 << 20, dtype=torch.uint8, device="cuda:0")
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    return RIGHT


DEEDS = (
    in_order,
    not_waited_for,
    waited_for_too_early,
    source_changed_too_early,
    source_written_too_late,
    freed_under_another_stream,
    scratch_shared_by_streams,
    unpinned_source,
    two_devices,
    two_gpus,
    out_elsewhere,
    wrong_keyword,
    no_such_gpu,
    beyond_the_bound,
    within_the_bound,
)


def outcome(deed):
    """``right``, ``wrong``, or the name of the error."""
    try:
        return "right" if deed() == RIGHT else "wrong"
    except Exception as error:  # noqa: BLE001 - which one it is is what is asked
        return type(error).__name__


if __name__ == "__main__":
    os.write(1, json.dumps({deed.__name__: outcome(deed) for deed in DEEDS}).encode())
