"""Which backend of `depthwise_conv3d` is expected to be fastest, by a model fitted to measurements on a CPU."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch

from rep3d.ops.fft_conv import make_plan


class Call(NamedTuple):
    """What the time of a call depends on."""

    shape: tuple[int, ...]  # of x, (B, C, D, H, W)
    k: int
    dtype: torch.dtype = torch.float32  # that it computes in
    device: torch.device = torch.device("cpu")
    needs_x: bool = False  # a gradient
    needs_weight: bool = False
    saves_spectra: bool = True
    keeps_kernel_spectrum: bool = False
    unfolds: bool = False  # conv3d copies each voxel once per element of the kernel

    @property
    def training(self) -> bool:
        return self.needs_x or self.needs_weight


class Cost(NamedTuple):
    """Nanoseconds, fitted to measurements of scripts/benchmark_operator.py."""

    voxel: float  # of the map, conv3d forward
    multiply: float  # conv3d forward, per multiply-add
    multiply_backward: float  # conv3d backward, per multiply-add
    fft_call: float  # forward
    fft_map: float  # forward, per padded voxel of the maps
    fft_kernel: float  # forward, per padded voxel of the kernels
    # In units of the FFT's forward pass: forward and backward, and the weight gradient alone.
    fft_training: float = 2.5
    fft_weight_gradient: float = 1.1
    # Where conv3d unfolds, per voxel and element of the kernel.
    unfold: float = 5.0
    unfold_backward: float = 20.0


COSTS = {
    "cpu": Cost(2.4, 0.012, 1.5, 3e5, 3.2, 1.3),
    "cuda": Cost(0.05, 1e-3, 1e-2, 1e5, 0.03, 0.03),  # chooses well on an H200, see docs/performance.md
}


def expected_costs(call: Call) -> dict[str, float]:
    """Nanoseconds that each backend is expected to take."""
    cost = COSTS.get(call.device.type, COSTS["cuda"])
    batch, channels, depth, height, width = call.shape
    voxels = batch * channels * depth * height * width
    if call.unfolds:
        direct = cost.unfold * voxels * call.k**3
        backward = cost.unfold_backward * voxels * call.k**3
    else:
        # conv3d skips the padding along the first two axes.
        multiplies = batch * channels * overlaps(depth, call.k) * overlaps(height, call.k) * width * call.k
        direct = cost.voxel * voxels + cost.multiply * multiplies
        backward = cost.multiply_backward * multiplies
    kernels = 0 if call.keeps_kernel_spectrum else cost.fft_kernel
    padded = channels * math.prod(make_plan((depth, height, width), call.k).sizes)
    float32_numbers = 2 if call.dtype == torch.float64 else 1
    fft = cost.fft_call + (cost.fft_map * batch + kernels) * padded * float32_numbers
    if not call.training:
        return {"direct": direct, "fft": fft}
    return {
        "direct": direct + backward,
        "fft": cost.fft_training * fft,
        "mixed": 2 * direct + cost.fft_weight_gradient * fft,
    }


def overlaps(n: int, k: int) -> int:
    """Pairs of a voxel of an axis of n and an element of the kernel that lies inside it."""
    return sum([min(i, k // 2) + min(n - 1 - i, k // 2) + 1 for i in range(n)])


def cheapest(call: Call) -> str:
    """The backend that is expected to be fastest."""
    costs = expected_costs(call)
    best = "direct"
    for backend, cost in costs.items():  # torch.compile, which may not know the sizes, cannot trace `min` with a key
        if cost < costs[best]:
            best = backend
    return best


cheapest_remembered = functools.lru_cache(maxsize=1024)(cheapest)  # a layer asks at every call
