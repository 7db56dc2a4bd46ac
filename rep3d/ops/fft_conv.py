"""The `fft` and `mixed` backends of `depthwise_conv3d`: spectra instead of k^3 multiply-adds per voxel.

`correlate` costs three transforms forward and three backward, whatever the kernel size. `correlate_mixed` runs
`torch.nn.functional.conv3d` where that is fast on small kernels (output and input gradient) and spectra where it is
slow (weight gradient).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.optim.optimizer import register_optimizer_step_post_hook

AXES = (-3, -2, -1)

# Channels are transformed in blocks of at most this many complex numbers, which bounds the memory beside the saved
# spectra. On a CPU small blocks also stay in the cache; a GPU wants enough work for one launch.
BLOCK_NUMBERS = {"cpu": 2**19, "cuda": 2**26}

# Lengths that no greater one beats on the CPU (Intel MKL): a cube of 32 takes a third of the time of a cube of 28. GPUs
# and other libraries like them as well, having no prime factor above 7.
GOOD_SIZES = (2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 36, 40, 48, 50, 56, 60, 64, 72, 80, 96, 100, 112, 120, 128)


class Plan(NamedTuple):
    """How maps of one spatial shape meet kernels of one size."""

    shape: tuple[int, ...]  # of the map
    k: int
    radii: tuple[int, ...]  # largest offset from the kernel's centre that reaches from one voxel to another, per axis
    sizes: tuple[int, ...]  # of the transforms

    @property
    def inner(self) -> tuple[slice, ...]:
        """The offsets of a kernel (C, k, k, k) that can matter."""
        return (slice(None), *(slice(self.k // 2 - r, self.k // 2 + r + 1) for r in self.radii))

    @property
    def padding(self) -> list[int]:
        """For `F.pad`: `radii` voxels before each axis, and zeros up to `sizes` behind."""
        axes = zip(reversed(self.shape), reversed(self.radii), reversed(self.sizes), strict=True)
        return [p for n, r, size in axes for p in (r, size - n - r)]


def make_plan(shape: Sequence[int], k: int) -> Plan:
    radii = tuple(min(k // 2, n - 1) for n in shape)
    return Plan(tuple(shape), k, radii, tuple(good_size(n + r) for n, r in zip(shape, radii, strict=True)))


def good_size(n: int) -> int:
    """An even length >= n whose transforms are fast."""
    if n <= GOOD_SIZES[-1]:
        return next(size for size in GOOD_SIZES if size >= n)
    size = n + -n % 8
    while not _is_smooth(size):
        size += 8
    return size


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


_steps = 0  # of any optimizer: fused ones change parameters without a trace


def _count_step(*_: object) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


class KernelSpectra:
    """The spectra of one kernel for the last few input sizes: inference transforms a kernel once.

    A changed kernel gets new spectra: another storage or view of it, written to in place, or since a step of any
    optimizer. Whoever writes to its `data` or its NumPy array, which leaves no trace, has to `clear` them. Copies and
    pickles start empty.

    Args:
        limit: input sizes that are kept.
    """

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        # Key, kernel and spectrum, the last used first. Holding the kernel keeps its address from being given away.
        self.entries: tuple[tuple[tuple, torch.Tensor, torch.Tensor], ...] = ()

    def get(self, weight: torch.Tensor, plan: Plan, dtype: torch.dtype) -> torch.Tensor:
        """The spectrum of `weight`, (C, 1, k, k, k), computed in `dtype`, without gradients."""
        place = (weight.device, weight.data_ptr(), weight.shape, weight.stride())
        kernel = (weight.dtype, *place, weight._version, _steps)
        entries = self.entries  # read and replaced whole: threads may share the module
        entry = next((entry for entry in entries if entry[0] == (plan, dtype, *kernel)), None)
        if entry is None:
            entry = ((plan, dtype, *kernel), weight, _kernel_spectrum(weight.to(dtype), plan))
        others = [other for other in entries if other is not entry and other[0][2:] == kernel]
        self.entries = (entry, *others)[: self.limit]
        return entry[2]

    def clear(self) -> None:
        """Forget them."""
        self.entries = ()

    def __reduce__(self):
        return KernelSpectra, (self.limit,)


def correlate(
    x: torch.Tensor, weight: torch.Tensor, *, save_spectra: bool = True, spectra: KernelSpectra | None = None
) -> torch.Tensor:
    """Depthwise "same" cross-correlation by FFT, (B, C, D, H, W) with (C, 1, k, k, k).

    Args:
        x: float32 or float64, the type that it computes in.
        weight: of any floating-point type.
        save_spectra: keep them for the backward pass, which otherwise transforms x and weight again.
        spectra: keeps those of `weight` between calls without gradients.
    """
    need_x, need_weight = (torch.is_grad_enabled() and tensor.requires_grad for tensor in (x, weight))
    if need_x or need_weight or _is_dual(x) or _is_dual(weight):
        return _Correlation.apply(x, weight.to(x.dtype), need_weight and save_spectra, need_x and save_spectra)[0]
    x, weight = x.detach(), weight.detach()
    kept = None
    if spectra is not None and _can_be_told_apart(weight):
        kept = spectra.get(weight, make_plan(x.shape[2:], weight.shape[-1]), x.dtype)
    return _correlate(x, weight if kept is not None else weight.to(x.dtype), weight_spectrum=kept)[0]


def _is_dual(tensor: torch.Tensor) -> bool:
    """Whether it carries a tangent of forward-mode differentiation, which refuses what has no rule for it."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


def _can_be_told_apart(weight: torch.Tensor) -> bool:
    """Whether a kernel has the address and the version that `KernelSpectra` go by."""
    if torch.compiler.is_compiling() or weight.is_inference():
        return False
    try:
        weight.data_ptr()
    except RuntimeError:  # one of a batch of torch.func.vmap
        return False
    return True


def correlate_mixed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`correlate` for small kernels: only the weight gradient comes from spectra."""
    return _MixedCorrelation.apply(x, weight)


class _Correlation(torch.autograd.Function):
    """y[n] = sum_j x[n + j - r] w[j], a correlation, so with x shifted by r into its padding Y = X conj(W) in spectra.

    The gradients follow from the same spectra: dX = dY W, shifted back by r, and dW = X conj(dY). Only the offsets
    |j - r| <= N - 1 can matter; with the kernel cropped to them, circular transforms of length N + r are free of
    wrap-around in all three.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, save_x: bool, save_weight: bool) -> tuple[torch.Tensor, ...]:
        return _correlate(x, weight, save_x, save_weight)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, ctx.saves_x, ctx.saves_weight = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # no zeros the size of the spectra
        ctx.save_for_backward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx, grad_y, *_):
        if grad_y is None:  # only a spectrum was asked for a gradient
            return None, None, None, None
        need_x, need_weight = ctx.needs_input_grad[:2]
        x, weight, *spectra = ctx.saved_tensors  # torch.utils.checkpoint allows to ask for them once
        if torch.is_grad_enabled():  # somebody wants second derivatives
            grad_x = correlate(grad_y, weight.flip(AXES)) if need_x else None
            grad_weight = _WeightGradient.apply(x, grad_y, weight.shape[-1]) if need_weight else None
            return grad_x, grad_weight, None, None
        blocks = len(spectra) // (ctx.saves_x + ctx.saves_weight or 1)
        x_spectra = spectra[:blocks] if ctx.saves_x else None
        weight_spectra = spectra[-blocks:] if ctx.saves_weight else None
        return *_gradients(x, weight, grad_y, need_x, need_weight, x_spectra, weight_spectra), None, None


class _MixedCorrelation(torch.autograd.Function):
    """Output and input gradient by `conv3d`, which is fast forward only; weight gradient by FFT."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight) -> torch.Tensor:
        return _convolve(x, weight)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad_y):
        x, weight = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad
        grad_x = None
        if need_x and torch.is_grad_enabled():  # somebody wants second derivatives
            grad_x = correlate_mixed(grad_y, weight.flip(AXES))
        elif need_x:
            with torch.autocast(grad_y.device.type, enabled=False):  # of whoever calls backward
                grad_x = _convolve(grad_y, weight, flipped=True)
        grad_weight = _WeightGradient.apply(x, grad_y, weight.shape[-1]) if need_weight else None
        return grad_x, grad_weight


class _WeightGradient(torch.autograd.Function):
    """dW[j] = sum_n x[n + j - r] dY[n] for the k^3 offsets j, itself differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, grad_y, k: int) -> torch.Tensor:
        weight = x.new_empty((x.shape[1], 1, k, k, k))
        grad_weight = _gradients(x, weight, grad_y, need_x=False, need_weight=True)[1]
        assert grad_weight is not None
        return grad_weight

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad):
        x, grad_y = ctx.saved_tensors
        need_x, need_grad_y, _ = ctx.needs_input_grad
        return (
            correlate(grad_y, grad.flip(AXES)) if need_x else None,
            correlate(x, grad) if need_grad_y else None,
            None,
        )


def _convolve(x: torch.Tensor, weight: torch.Tensor, flipped: bool = False) -> torch.Tensor:
    """`torch.nn.functional.conv3d` with the offsets that can matter, of the kernel or of the flipped kernel."""
    plan = make_plan(x.shape[2:], weight.shape[-1])
    inner = weight[(slice(None), *plan.inner)]
    return F.conv3d(x, inner.flip(AXES) if flipped else inner, padding=plan.radii, groups=weight.shape[0])


def _correlate(
    x: torch.Tensor,
    weight: torch.Tensor,
    save_x: bool = False,
    save_weight: bool = False,
    weight_spectrum: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """y, and, where they are to be saved, the spectra of x and then those of the kernel, by blocks of channels."""
    plan = make_plan(x.shape[2:], weight.shape[-1])
    y = _empty(x.shape, x, weight)
    x_spectra, weight_spectra = [], []
    for block in _channel_blocks(x, plan):
        x_spectrum = _map_spectrum(x[:, block], plan)
        kernel = _kernel_spectrum(weight[block], plan) if weight_spectrum is None else weight_spectrum[block]
        y[:, block] = _inverse_transform(x_spectrum * kernel, (0, 0, 0), plan.shape)
        if save_x:
            x_spectra.append(x_spectrum)
        if save_weight:
            weight_spectra.append(kernel)
    return y, *x_spectra, *weight_spectra


def _gradients(
    x: torch.Tensor,
    weight: torch.Tensor,
    grad_y: torch.Tensor,
    need_x: bool,
    need_weight: bool,
    x_spectra: list[torch.Tensor] | None = None,
    weight_spectra: list[torch.Tensor] | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    plan = make_plan(x.shape[2:], weight.shape[-1])
    grad_x = _empty(x.shape, weight, grad_y) if need_x else None
    grad_weight = _empty(weight.shape, x, grad_y).zero_() if need_weight else None
    offsets = tuple(2 * r + 1 for r in plan.radii)
    for i, block in enumerate(_channel_blocks(x, plan)):
        grad_spectrum = torch.fft.rfftn(grad_y[:, block], s=plan.sizes, dim=AXES)
        if grad_x is not None:
            weight_spectrum = weight_spectra[i] if weight_spectra else _kernel_spectrum(weight[block], plan)
            product = weight_spectrum.conj() * grad_spectrum
            grad_x[:, block] = _inverse_transform(product, plan.radii, plan.shape)
        if grad_weight is not None:
            x_spectrum = x_spectra[i] if x_spectra else _map_spectrum(x[:, block], plan)
            product = (_conjugate_(grad_spectrum) * x_spectrum).sum(dim=0)
            grad_weight[block, 0][plan.inner] = _inverse_transform(product, (0, 0, 0), offsets)
    return grad_x, grad_weight


def _empty(shape: Sequence[int], *operands: torch.Tensor) -> torch.Tensor:
    """What is computed from the operands, to be filled: under `torch.func.vmap` it is a batch where one of them is."""
    return sum(operand.new_empty(()) for operand in operands).new_empty(shape)  # type: ignore[union-attr]


def _map_spectrum(x: torch.Tensor, plan: Plan) -> torch.Tensor:
    return torch.fft.rfftn(F.pad(x, plan.padding), dim=AXES)


def _kernel_spectrum(weight: torch.Tensor, plan: Plan) -> torch.Tensor:
    """conj(W), (C, D', H', W' // 2 + 1)."""
    return _conjugate_(torch.fft.rfftn(weight[:, 0][plan.inner], s=plan.sizes, dim=AXES))


def _conjugate_(spectrum: torch.Tensor) -> torch.Tensor:
    """In place; `conj_physical_` has no rule for `torch.func.vmap`."""
    spectrum.imag.neg_()
    return spectrum


def _inverse_transform(spectrum: torch.Tensor, starts: Sequence[int], lengths: Sequence[int]) -> torch.Tensor:
    """`irfftn` of even sizes, cropped to `lengths` voxels from `starts` axis by axis: what goes goes early."""
    depth, height, width = (slice(start, start + length) for start, length in zip(starts, lengths, strict=True))
    x = torch.fft.ifft(spectrum, dim=-3)[..., depth, :, :]
    x = torch.fft.ifft(x, dim=-2)[..., height, :]
    return torch.fft.irfft(x)[..., width]


def _channel_blocks(x: torch.Tensor, plan: Plan) -> list[slice]:
    batch, channels = x.shape[:2]
    numbers = batch * plan.sizes[0] * plan.sizes[1] * (plan.sizes[2] // 2 + 1)
    step = max(1, BLOCK_NUMBERS.get(x.device.type, BLOCK_NUMBERS["cuda"]) // numbers)
    return [slice(start, min(start + step, channels)) for start in range(0, channels, step)]
