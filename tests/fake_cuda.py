"""A simulated CUDA device: tensors that report ``cuda:0`` and hold their numbers on the CPU.

Code that branches on ``device.type`` takes its GPU branch, autocast is CUDA's, and the backward runs in the thread of
that device. Where CUDA would refuse tensors of two devices, ``DeviceMixing`` is raised; kernels, and operations for
which the host waits, are counted::

    with FakeCUDA() as gpu:
        model.to("cuda")
        model(inputs).sum().backward()
        print(gpu.num_kernels, gpu.waits)

Operations are seen below autograd and autocast, so every forward and backward kernel is counted once. Kernels that
PyTorch fuses on a GPU only are counted in parts, except ``scaled_dot_product_attention``. Steps that a GPU replays as a
CUDA graph run eagerly. It needs the guard that
``on_fake_cuda/run.py`` loads before PyTorch, and uses private names of PyTorch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._contextlib import _DecoratorContextManager
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import varlen_reference  # noqa: F401 (the kernel, for numbers on the CPU)

CUDA = torch.device("cuda", 0)

COPY = "copy to the device"
"""A copy from pageable memory: the host waits until the data has left it."""
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "unique_dim", "_unique2", "bincount"}
_WAITS |= {"equal", "is_nonzero", "histc", "repeat_interleave"}
"""Operations whose result the host has to know: a value, or the shape of the output."""
_NO_KERNEL = {"detach", "alias", "lift_fresh", "_unsafe_view", "_reshape_alias", "is_pinned"}
_NO_KERNEL |= {"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided", "resize_", "set_"}
"""Operations without a kernel, in addition to views."""
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class DeviceMixing(RuntimeError):
    """A kernel got tensors of the CPU and of the device, which CUDA refuses."""


class FakeTensor(Tensor):
    """A tensor on the simulated device."""

    held: Tensor
    """Its numbers, on the CPU."""

    @staticmethod
    def __new__(cls, held: Tensor) -> FakeTensor:
        assert type(held) is Tensor, type(held)
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=CUDA,
        )
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"cuda({self.held!r})"

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")

    def tolist(self) -> Any:
        _active().wait("tolist")
        return self.detach().held.tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeTensor:
        if id(self) not in memo:
            made = FakeTensor(self.detach().held.clone())
            is_parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(made, self.requires_grad) if is_parameter else made
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _active().run(func, args, kwargs or {})


def to_cpu(tensor: Tensor) -> Tensor:
    """Return the numbers of a tensor of any device, without a gradient, outside of the simulation too."""
    tensor = tensor.detach()
    return tensor.held if isinstance(tensor, FakeTensor) else tensor


class FakeCUDA:
    """Context in which ``cuda`` exists. Tensors of the device cannot be used outside of it."""

    def __init__(self) -> None:
        self.kernels: Counter[str] = Counter()
        """Kernels by the name of their operation."""
        self.launches: list[str] = []
        """Names of all kernels, in order."""
        self.waits: Counter[tuple[str, str]] = Counter()
        """Operations for which the host waits, by name and line of code."""
        self._exits = ExitStack()

    @staticmethod
    def capture(step: Callable[[], None]) -> Callable[[], None]:
        """In place of capturing a CUDA graph: the step itself."""
        return step

    @property
    def num_kernels(self) -> int:
        """Kernels so far."""
        return self.kernels.total()

    def waits_by_kind(self) -> Counter[str]:
        """Return the waits by the name of their operation."""
        found: Counter[str] = Counter()
        for (what, _), count in self.waits.items():
            found[what] += count
        return found

    def wait(self, what: str) -> None:
        """Count an operation for which the host waits."""
        self.waits[what, _caller()] += 1

    def __enter__(self) -> FakeCUDA:
        from virft.generation import sampling_weights, static_decoding  # not before `replace_inference_mode`

        # Cached at its first call: `with torch.device("meta")` must know the functions that are replaced here.
        _device_constructors()
        amp = torch.cuda.amp.common
        replaced: list[tuple[Any, str, Any]] = [
            (torch, "tensor", _tensor_by_copy(torch.tensor)),
            (F, "scaled_dot_product_attention", _one_kernel_attention(F.scaled_dot_product_attention)),
            (torch.cuda, "_lazy_init", lambda: None),
            (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
            (torch.cuda, "get_device_capability", lambda *_: (9, 0)),
            (torch.cuda, "get_device_name", lambda *_: "simulated device"),
            (torch.backends.cuda, "is_flash_attention_available", lambda: True),
            (amp, "amp_definitely_not_available", lambda: False),
            (sampling_weights, "_is_plain", _is_plain_on(sampling_weights._is_plain)),
            (static_decoding, "capture", self.capture),
        ]
        for module, name, new in replaced:
            self._exits.enter_context(mock.patch.object(module, name, new))
        # `torch.tensor` makes its values on the CPU; without this, tensors of a mode would be lifted to the device.
        self._exits.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        # `Module.to` would assign `.data`, which cannot change the class of a tensor.
        future = torch.__future__
        swaps = future.get_swap_module_params_on_conversion()
        self._exits.callback(future.set_swap_module_params_on_conversion, swaps)
        future.set_swap_module_params_on_conversion(True)
        _devices.append(self)
        self._exits.callback(_devices.remove, self)
        self._exits.enter_context(_Dispatch(self))
        return self

    def __exit__(self, *_: Any) -> None:
        self._exits.close()

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operation on the numbers, and wrap its result if it is on the device."""
        name = func.overloadpacket.__name__
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        has_input = any(isinstance(one, FakeTensor) for one in tensors)
        place = kwargs.get("device")
        target = None if place is None else torch.device(place).type
        if not has_input and target != "cuda":
            if not kwargs.get("pin_memory"):
                return func(*args, **kwargs)
            return _mark_pinned(func(*args, **kwargs | {"pin_memory": False}))
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with _Dispatch(self):  # made of other operations
                return func.decompose(*args, **kwargs)
        self._count(func, name, args, kwargs, target, has_input)
        if has_input and name not in ("copy_", "_to_copy"):
            self._check_devices(func, name, tensors, args)

        bare_args, bare_kwargs = tree_map(_bare, (args, kwargs))
        if target is not None:
            bare_kwargs["device"] = torch.device("cpu")
        if "pin_memory" in bare_kwargs:
            bare_kwargs["pin_memory"] = False
        result = _CPU_KERNELS.get(func, func)(*bare_args, **bare_kwargs)
        if (written := _written_arguments(func, args, kwargs)) is not None:
            return written
        if target == "cpu":
            return result
        return tree_map(lambda one: FakeTensor(one) if type(one) is Tensor else one, result)

    def _count(
        self, func: Any, name: str, args: Any, kwargs: dict[str, Any], target: str | None, has_input: bool
    ) -> None:
        """Count the kernel and the wait of an operation, if it has them."""
        if _is_asynchronous(name, args, kwargs):
            pass
        elif name == "copy_" and isinstance(args[0], FakeTensor) != isinstance(args[1], FakeTensor):
            self.wait(COPY if isinstance(args[0], FakeTensor) else "copy to the host")
        elif name == "_to_copy" and target == "cuda" and not has_input:
            self.wait(COPY)
        elif name == "_to_copy" and target == "cpu":
            self.wait("copy to the host")
        elif name in _WAITS and not (name == "repeat_interleave" and "self_int" in func._overloadname):
            self.wait(name)
        elif name in _INDEXING and any(one.dtype is torch.bool for one in _index_tensors(args)):
            self.wait(f"{name} by a mask")
        if name not in _NO_KERNEL and not func.is_view:
            self.kernels[name] += 1
            self.launches.append(name)

    def _check_devices(self, func: Any, name: str, tensors: list[Tensor], args: Any) -> None:
        """Raise ``DeviceMixing`` if CUDA would; an index on the CPU is copied to the device."""
        indices = _index_tensors(args) if name in _INDEXING else []
        for one in tensors:
            if isinstance(one, FakeTensor) or one.device.type == "meta":
                continue
            if any(one is index for index in indices):
                self.wait(COPY)
            elif one.ndim or name.startswith("index"):  # kernels take numbers of the CPU, without a dimension
                raise DeviceMixing(f"{func}: a CPU tensor {tuple(one.shape)} of {one.dtype} and tensors of {CUDA}")


class _Dispatch(TorchDispatchMode):
    """Sees operations that make a tensor, which have no argument on the device."""

    def __init__(self, gpu: FakeCUDA) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._gpu.run(func, args, kwargs or {})


def _wide_product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.bmm(left.to(dtype), right.to(dtype))


def _histogram(values: Tensor, *bins: Any, **limits: Any) -> Tensor:
    return torch.histc(values.float(), *bins, **limits).to(values.dtype)


_CPU_KERNELS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.bmm.dtype: _wide_product,
    torch.ops.aten.histc.default: _histogram,  # of integers
}
"""Operations that PyTorch has no CPU kernel of -> the same numbers."""
_devices: list[FakeCUDA] = []


def _active() -> FakeCUDA:
    if not _devices:
        raise RuntimeError("a tensor of the simulated device outside of FakeCUDA")
    return _devices[-1]


def _mark_pinned(tensor: Tensor) -> Tensor:
    """A tensor in pinned memory of the host, as far as copies of it are counted."""
    tensor.is_in_pinned_memory = True  # type: ignore[attr-defined]
    return tensor


def _is_asynchronous(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """True for a copy between the device and pinned memory for which the host does not wait."""
    if name not in ("copy_", "_to_copy"):
        return False
    is_requested = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
    return bool(is_requested) and any(hasattr(one, "is_in_pinned_memory") for one in args[:2])


def _bare(value: Any) -> Any:
    return value.held if isinstance(value, FakeTensor) else value


def _index_tensors(args: Any) -> list[Tensor]:
    return [one for one in tree_leaves(args[1]) if isinstance(one, Tensor)]


def _written_arguments(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Return the arguments that an in-place operation returns; None for any other operation."""
    schema = func._schema
    given = {argument.name: value for argument, value in zip(schema.arguments, args, strict=False)} | kwargs
    written = [one for one in schema.arguments if one.alias_info is not None and one.alias_info.is_write]
    found = []
    for one in schema.returns:
        if one.alias_info is None or not one.alias_info.is_write:
            return None
        found.append(next(given[to.name] for to in written if to.alias_info.before_set == one.alias_info.before_set))
    return (found[0] if len(found) == 1 else tuple(found)) if found else None


def _caller() -> str:
    """Return the innermost line of virft, else "autograd"."""
    frame = sys._getframe(1)
    while frame is not None:
        _, found, path = frame.f_code.co_filename.rpartition("/src/virft/")
        if found:
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "autograd"


def _tensor_by_copy(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``torch.tensor(values, device="cuda")`` as PyTorch does it: made on the CPU and copied."""

    def tensor(data: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("device") is None or torch.device(kwargs["device"]).type != "cuda":
            return plain(data, **kwargs)
        data = tree_map(lambda one: one.item() if isinstance(one, FakeTensor) and not one.ndim else one, data)
        return plain(data, **kwargs | {"device": "cpu"}).to(CUDA)

    return tensor


def _is_plain_on(plain: Callable[[nn.Linear], bool]) -> Callable[[nn.Linear], bool]:
    """The check of ``ready_for_sampling``; weights on the simulated device are plain too, although of another class."""

    def is_plain(layer: nn.Linear) -> bool:
        if isinstance(layer.weight, FakeTensor):
            return type(layer) is nn.Linear and "forward" not in vars(layer)
        return plain(layer)

    return is_plain


def _one_kernel_attention(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Fused attention in autocast's dtype, as on a GPU: one kernel forward, one backward."""

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        if query.device.type != "cuda":
            return plain(query, key, value, attn_mask=attn_mask, **kwargs)
        if torch.is_autocast_enabled("cuda"):
            dtype = torch.get_autocast_dtype("cuda")
            query, key, value = (one.to(dtype) for one in (query, key, value))
        if not query.dtype == key.dtype == value.dtype:
            raise RuntimeError(f"attention of {query.dtype}, {key.dtype} and {value.dtype}; expected one dtype")
        with torch.autocast("cuda", enabled=False):
            if attn_mask is not None and attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
            if attn_mask is not None:
                attn_mask = attn_mask.to(query.dtype)
            output: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query,
                key,
                value,
                kwargs.get("dropout_p", 0.0),
                kwargs.get("is_causal", False),
                attn_mask=attn_mask,
                scale=kwargs.get("scale"),
            )[0]
        return output

    return attention


class _NoGrad(_DecoratorContextManager):
    """In place of ``torch.inference_mode``, which tensors of another class do not support."""

    def __init__(self, mode: bool = True) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        if self._mode:
            torch.set_grad_enabled(False)

    def __exit__(self, *_: Any) -> None:
        torch.set_grad_enabled(self._before)

    def clone(self) -> _NoGrad:
        return _NoGrad(self._mode)


def replace_inference_mode() -> None:
    """Make ``torch.inference_mode`` an equivalent of ``no_grad``; before virft decorates its functions with it."""
    torch.inference_mode = _NoGrad  # type: ignore[assignment, misc]
