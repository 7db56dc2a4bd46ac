"""bfloat16 where it is fast, and in training only where it has been shown right on the machine at hand.

Some processors get the gradients of some layers wrong in bfloat16 (docs/upstream.md). So every layer of a network that
trains on a CPU is tried before it is used, once per process and in milliseconds: its output and gradients in bfloat16
against float32, at its own input shape. A layer that fails, or that is not safe to try, computes in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.conv import _ConvNd

logger = logging.getLogger(__name__)

TOLERANCE = 0.02  # relative error; rounding to bfloat16 gives 0.003
LARGEST = 8  # voxels: a longer axis is tried with so many, or with the reach of the kernel
_right: dict[tuple, bool] = {}  # by layer and input shape


def has_fast_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 is faster than float32 there: CUDA that supports it, and CPUs with AMX or AVX512-BF16."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # absent before torch 2.12: then float32
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def check_layers(network: nn.Module) -> None:
    """From now on, under autocast on a CPU and with gradients, layers that come out wrong in it compute in float32.

    Args:
        network: its layers get hooks, which `stop_checking` takes back: `torch.jit.script` cannot read them. Layers are
            modules with a `weight` of several dimensions, such as convolutions.
    """
    for layer in network.modules():
        weight = getattr(layer, "weight", None)
        is_layer = isinstance(weight, nn.Parameter) and weight.ndim > 1 and not any(layer.children())
        if is_layer and _enter not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_enter)
            layer.register_forward_hook(_leave, always_call=True)


def stop_checking(network: nn.Module) -> None:
    """Take back what `check_layers` did."""
    for layer in network.modules():
        for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
            for number in [number for number, hook in hooks.items() if hook in (_enter, _leave)]:
                del hooks[number]


def relative_error(layer: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.bfloat16) -> float:
    """The largest relative error, by norm, of a layer's output and gradients under autocast on the CPU; it may be NaN.

    Args:
        layer: called with one tensor; it has to be in float32.
        shape: of that tensor.
        dtype: of the autocast.
    """
    # Neither noted nor packed by checkpointing around the layer, which does not repeat this when it recomputes.
    with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=dtype, cache_enabled=False):
            actual = _passes(layer, shape)
        with torch.autocast("cpu", enabled=False):
            expected = _passes(layer, shape)
    if not all(torch.isfinite(e).all() for e in expected):
        return 0.0  # the weights have diverged: that is not for the processor to answer for
    errors = [(a - e).norm() / e.norm().clamp(min=1e-30) for a, e in zip(actual, expected, strict=True)]
    return float(torch.stack(errors).max())  # NaN if one is


def _passes(layer: nn.Module, shape: Sequence[int]) -> list[torch.Tensor]:
    """Output, and gradients of input and parameters, for noise that is the same in every call; in float32."""
    generator = torch.Generator().manual_seed(0)  # training's own random numbers stay what they are
    x = torch.randn(shape, generator=generator).requires_grad_()
    y = layer.forward(x)  # without the hooks
    gradient = torch.randn(y.shape, generator=generator).to(y.dtype)
    wanted = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    return [tensor.detach().float() for tensor in (y, *torch.autograd.grad(y, wanted, gradient))]


def _is_right(layer: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> bool:
    shape = _cut(layer, shape)
    parameters = tuple((tuple(parameter.shape), parameter.requires_grad) for parameter in layer.parameters())
    key = (type(layer), repr(layer), parameters, shape, dtype)
    if key not in _right:
        error = None if _is_unsafe(layer, shape) else relative_error(layer, shape, dtype)
        _right[key] = error is not None and error <= TOLERANCE
        if not _right[key]:
            reason = "not tried, it may write beyond its memory" if error is None else f"relative error {error:.2g}"
            told = "%s computes in float32: this CPU may get it wrong in %s for an input of %s (%s)"
            logger.warning(told, layer, str(dtype).removeprefix("torch."), shape, reason)
    return _right[key]


def _is_unsafe(layer: nn.Module, shape: Sequence[int]) -> bool:
    """Whether trying the layer may end the process: where a kernel is longer than the map, see docs/upstream.md."""
    if not isinstance(layer, _ConvNd) or layer.padding_mode != "zeros":  # others pad by hand
        return False
    return any(n < reach for n, reach in zip(shape[2:], _reach(layer), strict=True))


def _reach(layer: _ConvNd) -> list[int]:
    """Voxels from one end of the kernel to the other, along each axis."""
    return [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]


def _cut(layer: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that stands for `shape`: small axes as they are, large ones shortened."""
    if isinstance(layer, _ConvNd):
        batch, channels, *sizes = shape
        return min(batch, 2), channels, *(min(n, max(r, LARGEST)) for n, r in zip(sizes, _reach(layer), strict=True))
    if isinstance(layer, nn.Linear):
        return (*(min(n, LARGEST) for n in shape[:-1]), shape[-1])
    return tuple(shape)


def _enter(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[torch.Tensor] | None:
    if len(inputs) != 1 or not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        return None
    (x,) = inputs
    floats = (torch.float32, torch.bfloat16)
    if not isinstance(x, torch.Tensor) or x.device.type != "cpu" or x.dtype not in floats:
        return None
    if any(parameter.dtype != torch.float32 for parameter in layer.parameters()):
        return None
    if _is_right(layer, x.shape, torch.get_autocast_dtype("cpu")):
        return None
    in_float32 = layer.__dict__["in_float32"] = torch.autocast("cpu", enabled=False)
    in_float32.__enter__()
    return (x.float(),)


def _leave(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    in_float32 = layer.__dict__.pop("in_float32", None)
    if in_float32 is not None:
        in_float32.__exit__(None, None, None)
