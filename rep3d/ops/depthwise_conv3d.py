"""Depthwise 3D convolution whose cost hardly grows with the kernel: one door to three ways to compute it.

`direct` is `torch.nn.functional.conv3d`, the definition. `fft` multiplies spectra, at the same cost for every kernel
size. `mixed` is `direct` with the weight gradient of `fft`, for small kernels in training. All compute in at least
float32 and return the dtype that the caller works in (the autocast dtype under autocast, otherwise that of `x`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from rep3d.ops.fft_conv import KernelSpectra, correlate, correlate_mixed, make_plan

BACKENDS = ("auto", "direct", "fft", "mixed")


class _Cost(NamedTuple):
    """Nanoseconds that `auto` expects, fitted to measurements of scripts/benchmark_operator.py."""

    voxel: float  # of the map, conv3d forward
    multiply: float  # conv3d forward, per multiply-add
    multiply_backward: float  # conv3d backward, per multiply-add
    fft_call: float  # forward
    fft_map: float  # forward, per padded voxel of the maps
    fft_kernel: float  # forward, per padded voxel of the kernels
    # In units of the FFT's forward pass: forward and backward, and the weight gradient alone.
    fft_training: float = 2.5
    fft_weight_gradient: float = 1.1


COSTS = {
    "cpu": _Cost(2.4, 0.012, 1.5, 3e5, 3.2, 1.3),
    "cuda": _Cost(0.05, 1e-3, 1e-2, 1e5, 0.03, 0.03),  # chooses well on an H200, see docs/performance.md
}


def depthwise_conv3d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    backend: str = "auto",
    save_spectra: bool = True,
    spectra: KernelSpectra | None = None,
) -> torch.Tensor:
    """Depthwise cross-correlation with zero padding that keeps the spatial size.

    Args:
        x: input, (B, C, D, H, W), any spatial size, also smaller than the kernel.
        weight: one kernel per channel, (C, 1, k, k, k) with odd k.
        bias: one number per channel, (C,), or None.
        backend: "direct" (`torch.nn.functional.conv3d`), "fft", "mixed" (`direct`, but the weight gradient by FFT), or
            "auto", the one expected to be fastest.
        save_spectra: of the FFTs, for the backward pass; False saves their memory and takes more time.
        spectra: keeps the spectra of `weight` between calls without gradients.

    Returns:
        (B, C, D, H, W), in the autocast dtype under autocast, otherwise in the dtype of `x`.

    Raises:
        ValueError: a wrong shape, dtype or device, an even k, mismatched channels or an unknown backend.
    """
    exporting = _is_exporting()
    if not exporting:  # a trace would record the checks and warn of them
        _check_arguments(x, weight, bias, backend)
    device = x.device.type
    dtype = x.dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    if exporting:
        backend = "direct"
    elif backend == "auto":
        backend = _choose_backend(x, weight, kernel_spectrum_kept=spectra is not None)
    compute = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    with torch.autocast(device, enabled=False):
        x, weight = x.to(compute), weight.to(compute)
        if bias is not None:
            bias = bias.to(compute)
        if backend == "direct":
            return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1]).to(dtype)
        if backend == "mixed":
            y = correlate_mixed(x, weight)
        else:
            y = correlate(x, weight, save_spectra=save_spectra, spectra=spectra)
        return (y if bias is None else y + bias.view(-1, 1, 1, 1)).to(dtype)


def expected_costs(
    shape: Sequence[int], k: int, *, training: bool, device: str = "cpu", kernel_spectrum_kept: bool = False
) -> dict[str, float]:
    """Nanoseconds that each backend is expected to take for x of `shape` (B, C, D, H, W)."""
    cost = COSTS.get(device, COSTS["cuda"])
    batch, channels, depth, height, width = shape
    # conv3d skips the padding along the first two axes.
    multiplies = batch * channels * _overlaps(depth, k) * _overlaps(height, k) * width * k
    direct = cost.voxel * batch * channels * depth * height * width + cost.multiply * multiplies
    kernels = 0 if kernel_spectrum_kept else cost.fft_kernel
    padded = channels * math.prod(make_plan((depth, height, width), k).sizes)
    fft = cost.fft_call + (cost.fft_map * batch + kernels) * padded
    if not training:
        return {"direct": direct, "fft": fft}
    return {
        "direct": direct + cost.multiply_backward * multiplies,
        "fft": cost.fft_training * fft,
        "mixed": 2 * direct + cost.fft_weight_gradient * fft,
    }


def _overlaps(n: int, k: int) -> int:
    """Pairs of a voxel of an axis of n and an element of the kernel that lies inside it."""
    return sum([min(i, k // 2) + min(n - 1 - i, k // 2) + 1 for i in range(n)])


def _choose_backend(x: torch.Tensor, weight: torch.Tensor, kernel_spectrum_kept: bool = False) -> str:
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    choose = _cheapest if torch.compiler.is_compiling() else _cheapest_remembered
    return choose(tuple(x.shape), weight.shape[-1], training, x.device.type, kernel_spectrum_kept and not training)


def _cheapest(shape: tuple[int, ...], k: int, training: bool, device: str, kernel_spectrum_kept: bool) -> str:
    costs = expected_costs(shape, k, training=training, device=device, kernel_spectrum_kept=kernel_spectrum_kept)
    return min(costs, key=lambda backend: costs[backend])


_cheapest_remembered = functools.lru_cache(maxsize=1024)(_cheapest)  # a layer asks at every call


def _is_exporting() -> bool:
    """Exported graphs (TorchScript trace, ONNX, torch.export) hold the plain convolution."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting()


def _check_arguments(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
    if x.ndim != 5:
        raise ValueError(f"x must have the shape (B, C, D, H, W), got {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"x must not be empty, got the shape {tuple(x.shape)}")
    if weight.ndim != 5 or weight.shape[1] != 1 or len(set(weight.shape[2:])) != 1:
        raise ValueError(f"weight must have the shape (C, 1, k, k, k), got {tuple(weight.shape)}")
    if weight.shape[-1] % 2 == 0:
        raise ValueError(f"weight must have an odd kernel size, got k = {weight.shape[-1]}")
    if weight.shape[0] != x.shape[1]:
        raise ValueError(f"weight must have one kernel per channel of x ({x.shape[1]}), got {weight.shape[0]}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have the shape ({weight.shape[0]},), got {tuple(bias.shape)}")
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor, got {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x ({x.device}), got {tensor.device}")
