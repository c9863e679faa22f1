"""Tensors that torch takes for a GPU's and that lie in host memory, computed when their stream gets to it.

Torch's own dispatcher is underneath: arguments are parsed, types promoted and dimensions checked by torch itself, and
what arrives here is the operation with its device, as it would arrive at CUDA.
"""

from __future__ import annotations

import weakref

import torch
from machine import POISON, Work
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
_EMPTY = {aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default}
CPU = torch.device("cpu")


class Block:
    """A piece of a GPU's memory, given back when the last tensor in it is gone."""

    def __init__(self, gpu, held):
        self.gpu = gpu
        whole = torch.empty(0, dtype=torch.uint8).set_(held.untyped_storage())
        whole.fill_(POISON)
        counted = gpu.allocate(whole.numel())
        # The stream's, as with the allocator of CUDA: nobody else is asked before it is used again.
        last = weakref.finalize(self, gpu.release, counted, gpu.stream, whole, address_of(held))
        last.atexit = False


class DeviceTensor(torch.Tensor):
    """What the program sees of a tensor on a GPU; *held* are its numbers, which it may not look at."""

    @staticmethod
    def __new__(cls, held, block):
        """Make what looks as *held* does and lies on the block's GPU."""
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("cuda", block.gpu.index),
        )
        self.held = held
        self.block = block
        return self

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Go on to the operation; what asks a real driver on the way is done in other words."""
        with torch._C.DisableTorchFunctionSubclass():
            return _IN_OTHER_WORDS.get(func, func)(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Refuse: the mode sees every operation before this."""
        raise RuntimeError(f"{func} came past the stand-in")


class Dispatch(TorchDispatchMode):
    """Takes each operation on a GPU's tensors apart into what is known at once and what a stream does later."""

    @classmethod
    def _should_skip_dynamo(cls):
        """No: torch would import its compiler to be kept out of here, which takes seconds."""
        return False

    def __init__(self, machine):
        super().__init__()
        self._machine = machine
        self._pinned = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Do what CUDA would with the operation."""
        kwargs = kwargs or {}
        values = tree_flatten((args, kwargs))[0]
        there = [value for value in values if isinstance(value, DeviceTensor)]
        wanted = kwargs.get("device")
        is_for_gpu = wanted is not None and wanted.type == "cuda"
        if not there and not is_for_gpu:
            return self._on_the_host(func, args, kwargs)
        if func.overloadpacket is aten.to:
            with self:  # which comes in inference mode; of it torch makes a copy, or nothing
                return func.decompose(*args, **kwargs)
        if func is aten.copy_.default:
            return self._copy(args[0], args[1], _is_non_blocking(args, kwargs))
        if func is aten._to_copy.default and wanted is not None and wanted != args[0].device:
            return self._to_device(func, args, kwargs)
        gpu = self._only_gpu(func, there, wanted, values)
        if func is aten._local_scalar_dense.default:
            gpu.stream.run_all()
            return func(there[0].held)
        return self._compute(gpu, func, args, kwargs)

    # ------------------------------------------------------------ on the host

    def _on_the_host(self, func, args, kwargs):
        if func is aten.is_pinned.default:
            return address_of(args[0]) in self._pinned
        if not kwargs.pop("pin_memory", None):
            return func(*args, **kwargs)
        self._machine.faults.strike("pin")
        pinned = func(*args, **kwargs)
        # Kept for good: an address that is used again would be taken for pinned memory.
        self._pinned[address_of(pinned)] = pinned
        return pinned

    # ------------------------------------------------------------ between host and GPU

    def _copy(self, target, source, is_non_blocking):
        """Copy numbers; what may not be finished on return is put off until then."""
        sides = {side.device for side in (target, source)}
        gpu = self._machine.gpu(next(device for device in sides if device.type == "cuda"))
        if sides == {CPU, torch.device("cuda", gpu.index)}:
            host = source if source.device == CPU else target
            if is_non_blocking and address_of(host) not in self._pinned:
                raise RuntimeError("the stand-in: a copy that is not waited for, and not of pinned memory")
        elif len(sides) > 1:
            raise RuntimeError("the stand-in: copies from GPU to GPU are beyond it")
        else:
            is_non_blocking = True  # they are in the stream's order and nobody waits
        is_upload = source.device == CPU
        if is_upload and is_non_blocking:
            self._machine.ledger.copy_queued(sum(work.name == "upload" for work in gpu.stream.queue))
        into, out_of = (side.held if isinstance(side, DeviceTensor) else side for side in (target, source))
        is_damaged = is_upload and self._machine.faults.is_damaged("damage")
        name = "upload" if is_upload else "copy_"
        self._submit(gpu, name, lambda: _carry(into, out_of, is_damaged), (into, out_of))
        if not is_non_blocking:
            gpu.stream.run_all()
        return target

    def _to_device(self, func, args, kwargs):
        source = args[0]
        options = {**kwargs, "device": CPU}
        is_non_blocking = options.pop("non_blocking", False)
        target = func(torch.empty_strided(source.shape, source.stride(), dtype=source.dtype), **options)
        if kwargs["device"].type == "cuda":
            target = DeviceTensor(target, Block(self._machine.gpu(kwargs["device"]), target))
        return self._copy(target, source, is_non_blocking)

    # ------------------------------------------------------------ on the GPU

    def _only_gpu(self, func, there, wanted, values):
        """The GPU that all operands are on; numbers without dimensions may come from the host."""
        devices = {tensor.device for tensor in there}
        devices |= {torch.device("cuda", self._machine.gpu(wanted).index)} if wanted is not None else set()
        devices |= {value.device for value in values if type(value) is torch.Tensor and value.dim()}
        if len(devices) > 1:
            one, other = sorted(map(str, devices), reverse=True)[:2]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {one} and {other}! "
                f"({func})"
            )
        return self._machine.gpu(devices.pop())

    def _compute(self, gpu, func, args, kwargs):
        """Give the tensors that the operation gives, now; the numbers in them come later."""
        held_args, held_kwargs = tree_map(_held, (args, kwargs))
        if "device" in held_kwargs:
            held_kwargs["device"] = CPU
        written = _written(func, args, kwargs)
        if written:
            touched = [value for value in tree_flatten((held_args, held_kwargs))[0] if isinstance(value, torch.Tensor)]
            self._submit(gpu, _name(func), lambda: _in_place(func, held_args, held_kwargs, written), touched)
            return written[0] if len(written) == 1 else tuple(written)
        # With numbers that mean nothing yet, for types, dimensions, and errors that are told at once.
        shapes = _kernel(func, held_args, held_kwargs)
        view_of = next((value for value in tree_flatten(args)[0] if _share_memory(value, shapes)), None)
        if view_of is not None:
            return DeviceTensor(shapes, view_of.block)
        results = tree_map(lambda value: self._new(gpu, value) if isinstance(value, torch.Tensor) else value, shapes)
        if func in _EMPTY:
            return results
        into = [result.held for result in tree_flatten(results)[0] if isinstance(result, DeviceTensor)]
        touched = [value for value in tree_flatten((held_args, held_kwargs))[0] if isinstance(value, torch.Tensor)]
        self._submit(gpu, _name(func), lambda: _fill(into, _kernel(func, held_args, held_kwargs)), touched + into)
        return results

    def _new(self, gpu, like):
        return (
            DeviceTensor(held := torch.empty_like(like), Block(gpu, held)) if isinstance(like, torch.Tensor) else like
        )

    def _submit(self, gpu, name, run, tensors):
        gpu.open()
        gpu.stream.submit(Work(name, run, {address_of(tensor) for tensor in tensors}))


def _part(tensor, places):
    """``tensor[places]``, for numbers and slices."""
    dimension = 0
    for place in places if isinstance(places, tuple) else (places,):
        if isinstance(place, slice):
            tensor = aten.slice(tensor, dimension, *place.indices(tensor.shape[dimension]))
            dimension += 1
        else:
            tensor = aten.select(tensor, dimension, place)
    return tensor


def _set_part(tensor, places, value):
    """``tensor[places] = value``."""
    target = _part(tensor, places)
    if isinstance(value, torch.Tensor):
        _copy_into(target, value)
    else:
        target.fill_(value)


def _copy_into(tensor, source, non_blocking=False):
    """``tensor.copy_(source, non_blocking)``, of which nothing is derived."""
    with torch._C._AutoDispatchBelowAutograd():
        return aten.copy_(tensor, source, non_blocking)


_IN_OTHER_WORDS = {
    torch.Tensor.__getitem__: _part,
    torch.Tensor.__setitem__: _set_part,
    torch.Tensor.copy_: _copy_into,
    torch.Tensor.tolist: lambda tensor: tensor.to(CPU).tolist(),
    torch.Tensor.__int__: lambda tensor: int(tensor.item()),
    torch.Tensor.__float__: lambda tensor: float(tensor.item()),
    torch.Tensor.__bool__: lambda tensor: bool(tensor.item()),
}


def address_of(tensor):
    """Where the memory that a host tensor lies in begins."""
    return tensor.untyped_storage().data_ptr()


def _held(value):
    """What an operand is on the host; of the host's own there are only single numbers, taken as they are now."""
    if isinstance(value, DeviceTensor):
        return value.held
    return value.clone() if isinstance(value, torch.Tensor) else value


def _kernel(func, args, kwargs):
    """What the operation gives; where a CPU's kernel of an old torch knows no halves, which CUDA's do, by float32."""
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "not implemented for 'Half'" not in str(error):
            raise
    args, kwargs = tree_map(lambda value: _as(torch.float16, torch.float32, value), (args, kwargs))
    return tree_map(lambda value: _as(torch.float32, torch.float16, value), func(*args, **kwargs))


def _as(old, new, value):
    return value.to(new) if isinstance(value, torch.Tensor) and value.dtype == old else value


def _name(func):
    return func.overloadpacket.__name__


def _is_non_blocking(args, kwargs):
    return bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))


def _written(func, args, kwargs):
    """The tensors that an operation writes to, by what torch says of it."""
    written = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name) if argument.kwarg_only or place >= len(args) else args[place]
            if value is not None:
                written.append(value)
    return written


def _share_memory(value, result):
    return (
        isinstance(value, DeviceTensor)
        and isinstance(result, torch.Tensor)
        and value.held.numel() > 0
        and address_of(value.held) == address_of(result)
    )


def _carry(into, out_of, is_damaged):
    into.copy_(out_of)
    if is_damaged:
        into.view(torch.uint8)[into.numel() // 2].add_(1)


def _in_place(func, args, kwargs, written):
    shapes = [tensor.held.shape for tensor in written]
    func(*args, **kwargs)
    if [tensor.held.shape for tensor in written] != shapes:
        raise RuntimeError(f"the stand-in: {func} changed the size of what it writes to")


def _fill(into, results):
    results = [result for result in tree_flatten(results)[0] if isinstance(result, torch.Tensor)]
    for target, result in zip(into, results):  # noqa: B905 - 3.9
        target.copy_(result)
