"""Depthwise 3D convolution whose cost hardly grows with the kernel: one door to three ways to compute it.

`direct` is `torch.nn.functional.conv3d`, the definition. `fft` multiplies spectra, at the same cost for every kernel
size. `mixed` is `direct` with the weight gradient of `fft`, for small kernels in training. All compute in at least
float32 and return the dtype that the caller works in (the autocast dtype under autocast, otherwise that of `x`).

Where spectra are multiplied, a voxel that is not finite spoils its whole channel, and the error of every voxel goes
with the largest one of its channel (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from rep3d.ops import measured
from rep3d.ops.costs import Call, cheapest, cheapest_remembered, expected_costs
from rep3d.ops.fft_conv import KernelSpectra, correlate, correlate_mixed

BACKENDS = ("auto", "direct", "fft", "mixed")


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
            "auto": the one expected to be fastest, or on CUDA measured to be, see `rep3d.ops.measured`.
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
    compute = torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32
    if spectra is not None and torch.is_grad_enabled() and weight.requires_grad:
        spectra.clear()  # the kernel is about to change
    if exporting:
        backend = "direct"
    elif backend == "auto":
        backend = _choose_backend(x, weight, compute, save_spectra, keeps_kernel_spectrum=spectra is not None)
    with torch.autocast(device, enabled=False):
        y = _compute(x.to(compute), weight, bias, backend, save_spectra, spectra)
    return y.to(dtype)


def _compute(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    backend: str,
    save_spectra: bool,
    spectra: KernelSpectra | None,
) -> torch.Tensor:
    """In the dtype of x."""
    if bias is not None:
        bias = bias.to(x.dtype)
    if backend == "direct":
        return F.conv3d(x, weight.to(x.dtype), bias, padding=weight.shape[-1] // 2, groups=x.shape[1])
    if backend == "mixed":
        y = correlate_mixed(x, weight.to(x.dtype))
    else:
        y = correlate(x, weight, save_spectra=save_spectra, spectra=spectra)
    return y if bias is None else y + bias.view(-1, 1, 1, 1)


def _choose_backend(
    x: torch.Tensor,
    weight: torch.Tensor,
    dtype: torch.dtype = torch.float32,
    save_spectra: bool = True,
    keeps_kernel_spectrum: bool = False,
) -> str:
    needs_x, needs_weight = (torch.is_grad_enabled() and tensor.requires_grad for tensor in (x, weight))
    call = Call(
        shape=tuple(x.shape),
        k=weight.shape[-1],
        dtype=dtype,
        device=x.device,
        needs_x=needs_x,
        needs_weight=needs_weight,
        saves_spectra=save_spectra,
        keeps_kernel_spectrum=keeps_kernel_spectrum and not (needs_x or needs_weight),
        unfolds=x.device.type == "cpu" and not (dtype == torch.float32 and _has_onednn()),
    )
    if torch.compiler.is_compiling():
        return cheapest(call)
    if measured.measures(x.device):
        return measured.fastest(call, expected_costs, _make_trial)
    return cheapest_remembered(call)


@torch.compiler.assume_constant_result
def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled)


def _make_trial(call: Call, backend: str) -> Callable[[], None]:
    """One pass over zeros: no random number is drawn."""
    _, channels, *_ = call.shape
    zeros = torch.zeros(call.shape, dtype=call.dtype, device=call.device)
    x = zeros.detach().requires_grad_(call.needs_x)
    weight = zeros.new_zeros((channels, 1, *(call.k,) * 3)).requires_grad_(call.needs_weight)
    wanted = [tensor for tensor in (x, weight) if tensor.requires_grad]
    spectra = KernelSpectra() if call.keeps_kernel_spectrum else None

    def trial() -> None:
        y = _compute(x, weight, None, backend, call.saves_spectra, spectra)
        if wanted:
            torch.autograd.grad(y, wanted, zeros)

    return trial


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
