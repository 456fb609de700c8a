"""Let the CPU pretend to be a GPU, so that device code runs in every test run.

    with pretend("cuda", capability=(7, 5)) as accelerator:
        ...  # torch.device("cuda", 0) is there, and whole scripts run on it
    accelerator.reads  # how often the host read a value back

All numbers are on the CPU, but each tensor claims to be on a device, and what the real device refuses is refused:
an operation on tensors of two devices, a float64 on `mps`, a numpy array of a tensor on the device, a random generator
of another device. The claim is kept with the storage, so that all views, gradients and saved tensors share it.
"""

import contextlib
import ctypes
import pkgutil
import warnings
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

NOT_PERMITTED = "operation not permitted when stream is capturing"
GARBAGE = 0xFF  # every byte: a NaN in all formats
CPU, META = torch.device("cpu"), torch.device("meta")
GIB = 2**30
aten = torch.ops.aten
HOST_READS = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default,
              aten._unique2.default}
COPIES = {aten.copy_.default, aten._foreach_copy_.default}
CPU_INDICES_ALLOWED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default,
                       aten._index_put_impl_.default}
NO_FLOAT64 = "the MPS framework doesn't support float64"
REAL_DEVICE = torch._C.TensorBase.device


def claimed(tensor):
    """The device that a tensor claims to be on."""
    if REAL_DEVICE.__get__(tensor).type != "cpu":  # meta
        return REAL_DEVICE.__get__(tensor)
    return getattr(tensor.untyped_storage(), "claim", CPU)


def tensors_in(values):
    """The tensors among arguments or results, which may be lists of tensors."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def claim(tensor, device):
    if REAL_DEVICE.__get__(tensor).type == "cpu":
        tensor.untyped_storage().claim = device
    return tensor


class Refusing(TorchDispatchMode):
    """Sees every operation, also those of the backward pass: refuses to mix devices, and hands claims on."""

    def __init__(self, accelerator):
        super().__init__()
        self.accelerator = accelerator

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        tensors = [*tensors_in(args), *tensors_in((kwargs or {}).values())]
        devices = {claimed(tensor) for tensor in tensors} - {CPU, META}
        if operation in COPIES:
            target = claimed(next(tensors_in(args)))
        else:
            target = next(iter(devices), CPU)
            checked = tensors[:1] if operation in CPU_INDICES_ALLOWED else tensors
            if devices and (len(devices) > 1 or any(tensor.dim() and claimed(tensor) == CPU for tensor in checked)):
                raise RuntimeError("Expected all tensors to be on the same device, but found at least two, "
                                   f"{[str(claimed(tensor)) for tensor in tensors]} in {operation}")
        self.accelerator.operations += bool(devices)
        waits = operation in HOST_READS or operation in COPIES and target == CPU or (
            operation in CPU_INDICES_ALLOWED and any(tensor.dtype == torch.bool for tensor in tensors[1:]))
        self.accelerator.reads += bool(devices) and waits
        result = operation(*args, **(kwargs or {}))
        if target != CPU:
            for tensor in tensors_in((result,)):
                if target.type == "mps" and tensor.dtype == torch.float64:
                    raise TypeError(f"{operation}: {NO_FLOAT64}")
                claim(tensor, target)
        return result


class Claiming(TorchFunctionMode):
    """Sees every call of torch: what is asked for on the device is made on the CPU, and claims to be on the device."""

    def __init__(self, accelerator):
        super().__init__()
        self.accelerator = accelerator

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if function in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
            return self.move(name, *args, **kwargs)
        if function in (torch.Tensor.numpy, torch.Tensor.__array__) and claimed(args[0]) != CPU:
            raise TypeError(f"can't convert {claimed(args[0])} device type tensor to numpy; use Tensor.cpu() first")
        self.accelerator.reads += function is torch.Tensor.tolist and claimed(args[0]) != CPU
        if kwargs.get("device") is None:
            return function(*args, **kwargs)
        device = self.accelerator.numbered(kwargs.pop("device"))
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != device.type:
            raise RuntimeError(f"Expected a {device.type!r} generator but found {generator.device.type!r}")
        if device.type == "mps" and kwargs.get("dtype") == torch.float64:
            raise TypeError(NO_FLOAT64)
        real = CPU if device == self.accelerator.device else device
        return claim(function(*args, **kwargs, device=real), device)

    def move(self, name, tensor, *args, **kwargs):
        """Tensor.to, Tensor.cpu and Tensor.cuda."""
        if name != "to":
            args, kwargs = (name,), {}
        kwargs.pop("copy", None)
        if args and isinstance(args[0], torch.Tensor):
            args = (claimed(args[0]), args[0].dtype, *args[1:])
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        source, target = claimed(tensor), self.accelerator.numbered(device or claimed(tensor))
        dtype = dtype or tensor.dtype
        if target.type == "mps" and dtype == torch.float64:
            raise TypeError(NO_FLOAT64)
        if source == target and dtype == tensor.dtype and memory_format is None:
            return tensor
        if source == CPU != target and non_blocking and target.type == "mps":
            raise RuntimeError("a non-blocking copy of a temporary tensor to MPS is garbage")
        if source != target and not (non_blocking and source == CPU):  # the host waits for the device
            self.accelerator.reads += 1
        format_settings = {} if memory_format is None else {"memory_format": memory_format}
        moved = tensor.to(dtype=dtype, copy=source != target, **format_settings)
        return claim(moved, target) if source != target else moved


class Generator(torch.Generator):
    """A generator on the CPU that claims to be on a device."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls, "cpu")
        generator.claim = torch.device(device)
        return generator

    device = property(lambda self: self.claim)


class CUDAGraph(TorchDispatchMode):
    """A pretended torch.cuda.CUDAGraph: sees the operations of a recording, and does them again in a replay.

    As on the device, a recording leaves nothing behind: what it made is garbage until a replay, what it changed is as
    it was before. It may neither read anything back, nor draw random numbers, nor take any from the host. Unlike
    there, memory is not shared.
    """

    def __init__(self, accelerator):
        super().__init__()
        self.accelerator, self.calls, self.before, self.made = accelerator, [], {}, {}  # the last two by address

    @contextlib.contextmanager
    def recording(self):
        reads = self.accelerator.reads
        try:
            with self:
                yield
        finally:
            for address, storage in self.made.items():
                ctypes.memset(address, GARBAGE, storage.nbytes())
            for address, content in self.before.items():
                ctypes.memmove(address, content, len(content))
        if self.accelerator.reads > reads:
            raise RuntimeError(NOT_PERMITTED)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        from_host = False
        for tensor in tensors_in((*args, *(kwargs or {}).values())):
            storage = tensor.untyped_storage()
            address = storage.data_ptr()
            if address in self.made:
                continue
            from_host |= tensor.dim() > 0 and claimed(tensor) == CPU
            if address not in self.before:
                self.before[address] = ctypes.string_at(address, storage.nbytes())
        if from_host or torch.Tag.nondeterministic_seeded in operation.tags:
            raise RuntimeError(f"{NOT_PERMITTED}: {operation}")
        result = operation(*args, **(kwargs or {}))
        for tensor in tensors_in((result,)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.before:
                self.made[storage.data_ptr()] = storage
        self.calls.append((operation, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self):
        self.accelerator.replays += 1
        for operation, args, kwargs, recorded in self.calls:
            results = operation(*args, **kwargs)
            for place, result in zip(tensors_in((recorded,)), tensors_in((results,))):
                if place.data_ptr() != result.data_ptr():  # not a view
                    place.copy_(result)


class Accelerator:
    """The device that is pretended.

    reads: how often the host waited for it. operations: computed on it. replays: of CUDA graphs.
    """

    def __init__(self, kind):
        self.device = torch.device(kind, 0)
        self.reads = self.operations = self.replays = 0

    def numbered(self, device):
        device = torch.device(device)
        return self.device if device.type == self.device.type else device


def grouped_by_claim(real):
    """torch's grouping of tensors by device, with the devices that they claim."""

    def group(lists, with_indices=False):
        return {(claimed(next(tensor for tensor in tensors[0] if tensor is not None)), dtype): (tensors, indices)
                for (_, dtype), (tensors, indices) in real(lists, with_indices).items()}

    return group


def on_the_cpu(function):
    """A function of torch with a device type as its first argument, made to ask about the CPU."""

    def ask(device_type="cuda", *args, **kwargs):
        return function("cpu", *args, **kwargs)

    return ask


class Autocast(torch.autocast):
    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu", *args, **kwargs)


def stand_ins(kind, accelerator, capability, free):
    """{dotted name: what takes its place}; see `pretend`."""
    stream = mock.Mock()
    return {
        "torch.Tensor.device": property(claimed),
        "torch.Tensor.is_cuda": property(lambda tensor: claimed(tensor).type == "cuda"),
        "torch.Tensor.is_mps": property(lambda tensor: claimed(tensor).type == "mps"),
        "torch.Tensor.is_cpu": property(lambda tensor: claimed(tensor).type == "cpu"),
        "torch.Generator": Generator,
        "torch.autocast": Autocast,
        "torch.amp.autocast": Autocast,
        "torch.is_autocast_enabled": on_the_cpu(torch.is_autocast_enabled),
        "torch.get_autocast_dtype": on_the_cpu(torch.get_autocast_dtype),
        "torch._C._group_tensors_by_device_and_dtype": grouped_by_claim(torch._C._group_tensors_by_device_and_dtype),
        "torch.cuda.is_available": lambda: kind == "cuda",
        "torch.cuda.device_count": lambda: int(kind == "cuda"),
        "torch.cuda.set_device": lambda device: None,
        "torch.cuda.get_device_name": lambda device=None: "Pretended GPU",
        "torch.cuda.get_device_capability": lambda device=None: capability,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: including_emulation or capability >= (8, 0),
        "torch.cuda.mem_get_info": lambda device=None: (free, 2 * free),
        "torch.cuda.is_current_stream_capturing": lambda: False,
        "torch.cuda.Stream": lambda: stream,
        "torch.cuda.current_stream": lambda: stream,
        "torch.cuda.stream": contextlib.nullcontext,
        "torch.cuda.CUDAGraph": lambda: CUDAGraph(accelerator),
        "torch.cuda.graph": lambda graph, pool: graph.recording(),
        "torch.cuda.graph_pool_handle": lambda: None,
        "torch.backends.mps.is_available": lambda: kind == "mps",
        # as in a build for the CPU; one for CUDA would ask the driver, which is not there, for its stream
        "torch.accelerator.current_accelerator": lambda check_available=False: None,
    }


@contextlib.contextmanager
def pretend(kind, capability=(8, 0), free=8 * GIB):
    """Pretend that there is one device of this kind, `cuda` or `mps`. Yields the Accelerator.

    capability: compute capability of the CUDA device; (7, 5) is a T4. free: bytes of its memory that are free.
    """
    accelerator = Accelerator(kind)
    changes = stand_ins(kind, accelerator, capability, free)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for name, value in changes.items():
            stack.enter_context(mock.patch(name, value, create=True))
        stack.enter_context(Claiming(accelerator))
        stack.enter_context(Refusing(accelerator))
        yield accelerator
        for name, value in changes.items():  # undone after the end, a patch would put the pretended one back
            assert pkgutil.resolve_name(name) is value, f"undo the patch of {name} before the end of pretend()"
