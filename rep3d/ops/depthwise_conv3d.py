"""Depthwise 3D convolution whose cost hardly grows with the kernel: one door, its definition and a fast backend.

`direct` is `torch.nn.functional.conv3d`, the definition. `fft` multiplies spectra; its three transforms forward and
three backward cost the same for every kernel size. Both compute in at least float32 and return the dtype that the
caller works in (the autocast dtype under autocast, otherwise that of `x`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

BACKENDS = ("auto", "direct", "fft")
AXES = (-3, -2, -1)

# Channels are transformed in blocks of at most this many complex numbers, which bounds the memory beside the saved
# spectra. On a CPU small blocks also stay in the cache; a GPU wants enough work for one launch.
BLOCK_NUMBERS = {"cpu": 2**19, "cuda": 2**26}


class _Cost(NamedTuple):
    """Nanoseconds that `auto` expects, fitted to scripts/benchmark_operator.py: `direct` per multiply-add, `fft` per
    padded voxel and per call."""

    direct: float
    fft: float
    fft_call: float


# Without and with a backward pass to come. The CPU figures are from 2 cores; those for CUDA are estimates.
COSTS = {
    "cpu": (_Cost(0.018, 5.0, 1e6), _Cost(1.5, 14.0, 2e6)),
    "cuda": (_Cost(1e-3, 0.03, 1e5), _Cost(1e-2, 0.1, 3e5)),
}


def depthwise_conv3d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *, backend: str = "auto"
) -> torch.Tensor:
    """Depthwise cross-correlation with zero padding that keeps the spatial size.

    Args:
        x: input, (B, C, D, H, W), any spatial size, also smaller than the kernel.
        weight: one kernel per channel, (C, 1, k, k, k) with odd k.
        bias: one number per channel, (C,), or None.
        backend: "direct" (`torch.nn.functional.conv3d`), "fft", or "auto", the one expected to be faster.

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
        backend = _choose_backend(x, weight)
    compute = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    with torch.autocast(device, enabled=False):
        function = _direct if backend == "direct" else _fft
        y = function(x.to(compute), weight.to(compute), None if bias is None else bias.to(compute))
    return y.to(dtype)


def _direct(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])


def _fft(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if not torch.is_grad_enabled():
        # `needs_input_grad` below knows nothing of no_grad: the spectra of all channels would be kept.
        x, weight = x.detach(), weight.detach()
    y = _FFTConv.apply(x, weight)
    return y if bias is None else y + bias.view(-1, 1, 1, 1)


class _FFTConv(torch.autograd.Function):
    """y[n] = sum_j x[n + j - r] w[j], a correlation, so with x shifted by r into its padding Y = X conj(W) in spectra.

    The gradients follow from the saved spectra: dX = dY W, shifted back by r, and dW = X conj(dY). Only the offsets
    |j - r| <= N - 1 can matter; with the kernel cropped to them, circular transforms of length N + r are free of
    wrap-around in all three.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        need_x, need_weight = ctx.needs_input_grad
        shape, k = x.shape[2:], weight.shape[-1]
        radii = _radii(shape, k)
        sizes = [good_size(n + r) for n, r in zip(shape, radii, strict=True)]
        before_after = zip(reversed(shape), reversed(radii), reversed(sizes), strict=True)
        padding = [p for n, r, size in before_after for p in (r, size - n - r)]
        inner = _inner(k, radii)
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        x_spectra, weight_spectra = [], []
        for block in _channel_blocks(x.shape, sizes, x.device.type):
            x_spectrum = torch.fft.rfftn(F.pad(x[:, block], padding), dim=AXES)
            weight_spectrum = torch.fft.rfftn(weight[block, 0][inner], s=sizes, dim=AXES).conj_physical_()
            y[:, block] = _inverse_transform(x_spectrum * weight_spectrum, sizes, [0, 0, 0], shape)
            if need_x:
                weight_spectra.append(weight_spectrum)
            if need_weight:
                x_spectra.append(x_spectrum)
        ctx.save_for_backward(*x_spectra, *weight_spectra)
        ctx.x_shape, ctx.kernel_size, ctx.radii, ctx.sizes = x.shape, k, radii, sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        need_x, need_weight = ctx.needs_input_grad
        shape, k, sizes = ctx.x_shape, ctx.kernel_size, ctx.sizes
        blocks = _channel_blocks(shape, sizes, grad_y.device.type)
        spectra = ctx.saved_tensors  # torch.utils.checkpoint allows to ask for them once
        x_spectra, weight_spectra = spectra[: len(blocks)], spectra[-len(blocks) :]
        grad_x = grad_y.new_empty(shape) if need_x else None
        grad_weight = grad_y.new_zeros(shape[1], 1, k, k, k) if need_weight else None
        inner = _inner(k, ctx.radii)
        offsets = [2 * r + 1 for r in ctx.radii]
        for i, block in enumerate(blocks):
            grad_spectrum = torch.fft.rfftn(grad_y[:, block], s=sizes, dim=AXES)
            if grad_x is not None:
                product = weight_spectra[i].conj_physical() * grad_spectrum
                grad_x[:, block] = _inverse_transform(product, sizes, ctx.radii, shape[2:])
            if grad_weight is not None:
                product = (grad_spectrum.conj_physical_().mul_(x_spectra[i])).sum(dim=0)
                grad_weight[block, 0][inner] = _inverse_transform(product, sizes, [0, 0, 0], offsets)
        return grad_x, grad_weight


def _radii(spatial_shape: torch.Size, k: int) -> list[int]:
    """Largest offset from the kernel's centre that can reach from one voxel of the map to another, per axis."""
    return [min(k // 2, n - 1) for n in spatial_shape]


def _inner(k: int, radii: list[int]) -> tuple[slice, ...]:
    """The offsets of a kernel (C, k, k, k) that can matter."""
    return (slice(None), *(slice(k // 2 - r, k // 2 + r + 1) for r in radii))


def _inverse_transform(
    spectrum: torch.Tensor, sizes: list[int], starts: Sequence[int], lengths: Sequence[int]
) -> torch.Tensor:
    """`irfftn` cropped to `lengths` voxels from `starts`, axis by axis, so that what is cropped is dropped early."""
    depth, height, width = (slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
    x = torch.fft.ifft(spectrum, n=sizes[0], dim=-3)[..., depth, :, :]
    x = torch.fft.ifft(x, n=sizes[1], dim=-2)[..., height, :]
    return torch.fft.irfft(x, n=sizes[2], dim=-1)[..., width]


def _channel_blocks(x_shape: torch.Size, sizes: list[int], device: str) -> list[slice]:
    batch, channels = x_shape[:2]
    numbers = batch * sizes[0] * sizes[1] * (sizes[2] // 2 + 1)
    step = max(1, BLOCK_NUMBERS.get(device, BLOCK_NUMBERS["cuda"]) // numbers)
    return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]


def good_size(n: int) -> int:
    """Smallest even number >= n with no prime factor above 7: transforms of such lengths are fast."""
    size = n + n % 2
    while not _is_smooth(size):
        size += 2
    return size


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def _choose_backend(x: torch.Tensor, weight: torch.Tensor) -> str:
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    cost = COSTS.get(x.device.type, COSTS["cuda"])[training]
    k = weight.shape[-1]
    sizes = [good_size(n + r) for n, r in zip(x.shape[2:], _radii(x.shape[2:], k), strict=True)]
    direct = cost.direct * x.numel() * k**3
    fft = cost.fft * x.shape[0] * x.shape[1] * math.prod(sizes) + cost.fft_call
    return "direct" if direct <= fft else "fft"


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
