"""Levels 0 to 4 of files that came back from the store, one after another, with one child process."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias

import msgspec

from mlsync.errors import DeviceMissing, ObjectDamaged, ProofUnavailable, PythonUnfit, TorchMissing
from mlsync.formats.layout import UNKNOWN, ByteSource, Content
from mlsync.proof.child import DeviceInfo
from mlsync.proof.engine import Engine, Transfer, may_use_gpu, storages_to_send, without_frames
from mlsync.proof.inspection import Inspection, inspect
from mlsync.proof.numbers import number_facts, number_findings
from mlsync.proof.options import ProofOptions
from mlsync.proof.spans import ExtentChecksums
from mlsync.proof.verdict import Verdict
from mlsync.proof.warm import WarmEngine
from mlsync.proof.zero_tail import ZeroTail
from mlsync.values import Fact, Finding, Level, Proof, Severity

_SLOWEST_BYTES_PER_S = 20_000_000
_LOG: Final = logging.getLogger(__name__)
_NO_DEVICE = 'no device is wanted here: device = "none"'

#: Returns memory for the bytes at an offset of a file and of a length, or ``None``; called in the order of the file.
Allocate: TypeAlias = Callable[[int, int], memoryview | None]


class Streamed(Protocol):
    """A file that comes back from the store from its first byte to its last."""

    @property
    def size_bytes(self) -> int:
        """The file's length."""

    def stream(self, allocate: Allocate | None = None) -> Iterator[memoryview]:
        """Yield the whole file in order, its digests checked (level 0); a view is valid until the next one.

        Where *allocate* returned memory, the view is exactly that memory.
        """


class ProofSource(ByteSource, Streamed, Protocol):
    """A file that is read back from the store, and of which any part can be read."""


@dataclass(frozen=True, slots=True)
class Passed:
    """A file whose bytes were all passed over without a fault, by a structure that is still to be confirmed."""

    inspection: Inspection
    transfer: Transfer
    tail: ZeroTail
    seconds: float


class Prover:
    """Proves files one at a time, from one thread; owns the child, which starts when it is first needed.

    Damage that the source finds is raised as it is, and so is ``DeviceMissing`` if the options name a CUDA device. With
    *warm* a child that was left there is taken, and one on a GPU is left there in the end if nothing went wrong.
    """

    def __init__(self, options: ProofOptions, warm: WarmEngine | None = None) -> None:
        self._options = options
        self._warm = warm
        self._engine: Engine | None = None
        self._user, self._as_root = options.user, options.as_root
        self._lasting_error: ProofUnavailable | None = None
        self._is_begun = False
        #: Called with what is waited for while the child starts, and with nothing once it is ready.
        self.on_wait: Callable[[str], None] = _unheard
        #: Called now and then while the child is waited for; what it raises ends the proof, and the prover with it.
        self.on_tick: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._warm is not None and self._engine is not None:
            engine, self._engine = self._engine, None
            self._warm.keep(engine, self._options)
        self.close()

    def start(self) -> None:
        """Begin to start the child without waiting for it: it takes seconds if it imports torch.

        Only the first call does so. What is wrong with the child is raised when it is needed.
        """
        if self._wants_device and self._engine is None and not self._is_begun:
            self._is_begun = True
            if self._warm is not None and self._warm.has(self._options):
                return  # it takes its memory in an instant, and not before there is something to prove
            with suppress(ProofUnavailable):
                self._engine = self._started()

    def open(self) -> DeviceInfo | None:
        """Start the child and return its device, ``None`` if none is wanted; raises ``ProofUnavailable``."""
        return self._ready_engine().info if self._wants_device else None

    def close(self) -> None:
        """End the child; the next file would start another."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def prove(self, source: ProofSource, path: bytes, metadata: bytes | None = None) -> Verdict:
        """Prove one file; *path* tells what kind its name promises, *metadata* is the ``.metadata`` beside a shard."""
        began = time.monotonic()
        _LOG.debug("proving %r, %d bytes", os.fsdecode(path), source.size_bytes)
        try:
            verdict = self._prove(source, path, metadata)
        except BaseException:
            self.close()  # the child may be in the middle of the file
            raise
        proof = msgspec.structs.replace(verdict.proof, seconds=round(time.monotonic() - began, 6))
        why = proof.refusal or proof.shortfall
        _LOG.debug("%r: level %d after %.1f s%s", os.fsdecode(path), proof.level, proof.seconds, why and f": {why}")
        return replace(verdict, proof=proof)

    def pass_over(
        self, structure: ByteSource, source: Streamed, path: bytes, waited_s: Callable[[], float]
    ) -> Passed | None:
        """Pass over a file that is not there as a whole yet; where its parts lie is read from *structure*.

        Return ``None`` if there is anything wrong with it: only ``prove`` judges. *waited_s* says how long the source
        was waited for.
        """
        began = time.monotonic()
        inspection = inspect(structure, path, self._options.level)
        if inspection.finding is not None and inspection.finding.severity is Severity.REFUSE:
            return None
        try:
            transfer = self._begin_transfer(source.size_bytes, inspection.content)
            tail = ZeroTail()
            if transfer.error is not None or _read_through(source, inspection, transfer, tail) or transfer.error:
                self.close()
                return None
        except BaseException:
            self.close()  # the child may be in the middle of the file
            raise
        return Passed(inspection, transfer, tail, max(0.0, time.monotonic() - began - waited_s()))

    def confirm(self, passed: Passed, source: ByteSource, path: bytes) -> Verdict | None:
        """Return the verdict on a file that was passed over, if *source*, the whole file, has that very structure."""
        began = time.monotonic()
        inspection = inspect(source, path, self._options.level)
        if inspection != passed.inspection:
            return None
        verdict = self._whole_verdict(inspection, passed.transfer, passed.tail)
        seconds = passed.seconds + time.monotonic() - began
        return replace(verdict, proof=msgspec.structs.replace(verdict.proof, seconds=round(seconds, 6)))

    def _prove(self, source: ProofSource, path: bytes, metadata: bytes | None) -> Verdict:
        inspection = inspect(source, path, self._options.level, metadata)
        if inspection.finding is not None and inspection.finding.severity is Severity.REFUSE:
            return _refused(inspection, [inspection.finding])
        transfer = self._begin_transfer(source.size_bytes, inspection.content)
        tail = ZeroTail()
        faults = _confirmed_faults(source, inspection, transfer, tail)
        if transfer.error is not None:
            self.close()
            if isinstance(transfer.error, DeviceMissing) and self._options.device.startswith("cuda"):
                raise transfer.error
        if faults:
            return _refused(inspection, faults)
        return self._whole_verdict(inspection, transfer, tail)

    def _whole_verdict(self, inspection: Inspection, transfer: Transfer, tail: ZeroTail) -> Verdict:
        unwritten = tail.findings(inspection.content.storages) if inspection.content is not None else []
        return self._verdict(inspection, transfer, unwritten)

    @property
    def may_use_gpu(self) -> bool:
        """Whether a proof here may take a GPU."""
        return self._wants_device and may_use_gpu(self._options.device)

    @property
    def _wants_device(self) -> bool:
        return self._options.device != "none" and self._options.level >= Level.DEVICE

    def _begin_transfer(self, size_bytes: int, content: Content | None) -> Transfer:
        """Return the transfer of the tensors to the device; it sends nothing if no device is wanted."""
        if content is None or not self._wants_device or not any(storage.length for storage in content.storages):
            return Transfer(())
        storages = storages_to_send(content)
        try:
            engine = self._ready_engine()
            timeout_s = self._options.timeout_s + size_bytes / _SLOWEST_BYTES_PER_S
            return Transfer(storages, engine, engine.begin(storages, timeout_s))
        except ProofUnavailable as error:
            return Transfer((), error=without_frames(error))

    def _ready_engine(self) -> Engine:
        """Return the living child; raises the same error again where a second try would not change it."""
        if self._engine is not None and self._engine.is_ready and not self._engine.is_alive():
            self.close()
        if self._lasting_error is not None:
            raise without_frames(self._lasting_error)
        try:
            try:
                return self._ready()
            except (PythonUnfit, TorchMissing) as error:
                if self._user is None or not self._options.may_be_root:
                    raise
                # A Python that only root may read, such as one below /root, cannot run as another user.
                self._as_root = f"{self._user.name} cannot run {error.where}: {error.what}"
                self._user = None
                self.close()
                return self._ready()
        except ProofUnavailable as error:
            self.close()
            if isinstance(error, (TorchMissing, DeviceMissing, PythonUnfit)):
                self._lasting_error = error
            raise

    def _ready(self) -> Engine:
        if self._engine is None:
            self._engine = self._started()
        self._engine.set_tick(self.on_tick)
        if not self._engine.is_ready:
            self.on_wait("importing torch" if may_use_gpu(self._options.device) else "starting the proof")
            self._engine.wait_ready()
            self.on_wait("")
        return self._engine

    def _started(self) -> Engine:
        engine = None if self._warm is None else self._warm.take(self._options)
        return engine or Engine(self._options, self._user, self._as_root)

    def _verdict(self, inspection: Inspection, transfer: Transfer, noticed: Sequence[Finding]) -> Verdict:
        """Return the verdict on a file whose bytes all came back as its container has them; *noticed* goes into it."""
        content, error = inspection.content, transfer.error
        findings = [inspection.finding, *noticed] if inspection.finding is not None else [*noticed]
        level = _level_without_device(inspection)
        facts = _facts(inspection)
        if content is not None and error is None and self._options.device != "none":
            level = min(self._options.level, _level_with_device(content, transfer))
            findings += _skipped_findings(content) + _unseen_findings(transfer)
            findings += number_findings(content, transfer.counts(), self._options.refuse, self._options.warn)
            facts |= number_facts(transfer.counts())
        info = transfer.info()
        if info is not None:
            findings += _device_findings(info)
        shortfall = ""
        if any(finding.severity is Severity.REFUSE for finding in findings):
            level = Level.DEVICE
        elif error is not None:
            info, shortfall = None, str(error)
        elif strange := _unknown_types(content):
            level = min(level, Level.CONTAINER)
            what = f"tensors of types that are not known here: {', '.join(strange)[:200]}"
            findings.append(Finding(Level.MEANING, Severity.NOTE, what))
        else:
            shortfall = self._left(content, transfer)
        return Verdict(_proof(inspection, level, findings, facts, info, shortfall), error)

    def _left(self, content: Content | None, transfer: Transfer) -> str:
        """Return what was not checked here and can be on another machine."""
        if self._options.device == "none" and content is not None and any(one.length for one in content.storages):
            return _NO_DEVICE
        uncounted = transfer.uncounted()
        return f"numbers of {', '.join(uncounted)} were not counted: this torch has none" if uncounted else ""


def _unheard(_what: str) -> None:
    """Tell nobody."""


def _confirmed_faults(source: ProofSource, inspection: Inspection, transfer: Transfer, tail: ZeroTail) -> list[Finding]:
    """Return the findings that refuse the file, confirmed in memory that only this process can write to.

    Without that a child could have a sound file refused by changing its windows. Raises ``Damage`` as the source does.
    """
    try:
        faults = _read_through(source, inspection, transfer, tail)
        if not faults or not transfer.lent_memory:
            return faults
    except ObjectDamaged:
        if not transfer.lent_memory:
            raise
    faults = _read_through(source, inspection, Transfer(()), ZeroTail())
    if not faults:
        transfer.protocol_error("other bytes in its windows than were put there")
    return faults


def _read_through(source: Streamed, inspection: Inspection, transfer: Transfer, tail: ZeroTail) -> list[Finding]:
    """Pass over the bytes once, for digests (in the source), checksums and device; return the findings that refuse."""
    checksums = ExtentChecksums(inspection.layout)
    offset = 0
    for view in source.stream(transfer.allocate):
        block = view.cast("B")
        checksums.feed(offset, block)
        transfer.feed(offset, block)
        tail.feed(block)
        offset += len(block)
    transfer.finish()
    if offset != source.size_bytes:
        what = f"{offset} bytes came back of {source.size_bytes}"
        return [Finding(Level.BYTES, Severity.REFUSE, what, offset=min(offset, source.size_bytes))]
    return checksums.faults


def _unknown_types(content: Content | None) -> list[str]:
    """Return the types of tensors that no known library is certain to load."""
    storages = content.storages if content is not None else ()
    return sorted({one.dtype.removeprefix(UNKNOWN) for one in storages if one.dtype.startswith(UNKNOWN)})


def _skipped_findings(content: Content) -> list[Finding]:
    """Return notes on tensors and arrays that are not stored as plain bytes, and were on no device."""
    notes = []
    if content.packed_count:
        notes.append(f"{content.packed_count} tensors are compressed, and went to no device")
    if content.aside_count:
        notes.append(f"{content.aside_count} arrays were skipped: their numbers were not counted")
    return [Finding(Level.DEVICE, Severity.NOTE, what) for what in notes]


def _unseen_findings(transfer: Transfer) -> list[Finding]:
    """Return notes on bytes that the device digested and whose numbers no torch supports."""
    unseen = transfer.unseen()
    if not unseen:
        return []
    what = f"numbers of {', '.join(unseen)[:200]} were not counted: no torch reads them"
    return [Finding(Level.NUMBERS, Severity.NOTE, what)]


def _level_with_device(content: Content, transfer: Transfer) -> int:
    if content.packed_count or content.aside_count:
        return Level.MEANING
    return Level.DEVICE if transfer.uncounted() or transfer.unseen() else Level.NUMBERS


def _level_without_device(inspection: Inspection) -> int:
    if inspection.content is not None:
        return Level.MEANING
    return Level.CONTAINER if inspection.layout is not None else Level.BYTES


def _facts(inspection: Inspection) -> dict[str, Fact]:
    return dict(inspection.content.facts) if inspection.content is not None else {}


def _proof(
    inspection: Inspection,
    level: int,
    findings: list[Finding],
    facts: dict[str, Fact],
    info: DeviceInfo | None = None,
    shortfall: str = "",
) -> Proof:
    content = inspection.content
    return Proof(
        level=level,
        container=inspection.container or "",
        device=info.device if info is not None else "",
        torch=info.torch if info is not None else "",
        proved_ns=time.time_ns(),
        seconds=0.0,
        tensor_count=len(content.tensors) if content is not None else 0,
        tensor_bytes=sum(storage.length for storage in content.storages) if content is not None else 0,
        facts=facts,
        findings=findings,
        shortfall=shortfall,
    )


def _device_findings(info: DeviceInfo) -> list[Finding]:
    """Return notes on the device: why the CPU, without which part of the sandbox, why as root."""
    notes = [f"proved on the CPU: {info.note}"] if info.note else []
    notes += [f"proved outside of a part of the sandbox: {info.unconfined}"] if info.unconfined else []
    notes += [f"proved as root: {info.as_root}"] if info.as_root else []
    return [Finding(Level.DEVICE, Severity.NOTE, what) for what in notes]


def _refused(inspection: Inspection, findings: list[Finding]) -> Verdict:
    """Return the verdict on a file that does not hold at the level of its worst finding."""
    level = max(min(finding.level for finding in findings) - 1, Level.BYTES)
    return Verdict(_proof(inspection, level, findings, _facts(inspection)))
