"""RepOptimizer: what a small kernel beside a large one does to training, done by an optimizer to the large one alone.

"Re-parameterizing Your Optimizers rather than Architectures" (Ding et al., ICLR 2023),
https://arxiv.org/abs/2205.15242. Two kernels with constant scales, trained with SGD, are one kernel whose gradient has
a constant factor for each element.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from rep3d.networks.capabilities import named_parameters_of

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


def scale_gradients(
    optimizer: OptimizerT,
    network: nn.Module,
    *,
    large_scale: float = 1.0,
    small_scale: float = 1.0,
    small_kernel_size: int = 3,
) -> OptimizerT:
    """Let an optimizer multiply the gradients of the large kernels by `gradient_scales`, and return it.

    It does so at the begin of its step, before weight decay and momentum. Adam and its kin divide a gradient by its own
    size, which takes a constant factor out again (the paper's equation 20): expect an effect with SGD.

    Args:
        optimizer: any of `torch.optim`, whose step takes no closure.
        network: its modules name their kernels by `large_kernels()`, see `rep3d.networks.capabilities`.
        large_scale: alpha_L, of the large kernel.
        small_scale: alpha_S, of the small one.
        small_kernel_size: its edge in voxels, odd.

    Raises:
        ValueError: a network without large kernels, a scale that is not above 0, or a small kernel that is not smaller.
    """
    names = named_parameters_of(network, "large_kernels")
    kernels = [parameter for name, parameter in network.named_parameters() if name in names]
    if not kernels:
        told = f"{type(network).__name__} names no large kernels"
        raise ValueError(f"scale_gradients: {told}, expected for example Rep3D")
    scales = {
        kernel: gradient_scales(kernel.shape[-1], large_scale, small_scale, small_kernel_size) for kernel in kernels
    }

    def scale(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(args) > 1 or kwargs.get("closure") is not None:  # the first is the optimizer
            raise ValueError("scale_gradients: the optimizer's step takes a closure, which has no gradients yet")
        for kernel, factors in scales.items():
            if kernel.grad is not None:
                kernel.grad.mul_(factors.to(kernel.grad))

    optimizer.register_step_pre_hook(scale)
    for group in optimizer.param_groups:
        group["gradient_scales"] = [
            large_scale,
            small_scale,
            small_kernel_size,
        ]  # so that a resumed training tells them
    return optimizer


def gradient_scales(
    kernel_size: int, large_scale: float = 1.0, small_scale: float = 1.0, small_kernel_size: int = 3
) -> torch.Tensor:
    """alpha_L^2, and alpha_L^2 + alpha_S^2 where the small kernel lies, (k, k, k).

    W' = alpha_L W_L + alpha_S W_S moves by alpha_L^2 + alpha_S^2 times its gradient, once for the scale in the sum and
    once for that of each gradient (the paper's equations 7, 9 and 10).

    Raises:
        ValueError: a scale that is not above 0, or a small kernel that is not odd and smaller.
    """
    for name, scale in (("large_scale", large_scale), ("small_scale", small_scale)):
        if not scale > 0:
            raise ValueError(f"{name} must be above 0, got {scale!r}")
    if not 0 < small_kernel_size < kernel_size or small_kernel_size % 2 == 0:
        raise ValueError(
            f"small_kernel_size must be odd and below the kernel's {kernel_size}, got {small_kernel_size!r}"
        )
    margin = (kernel_size - small_kernel_size) // 2
    scales = torch.full((kernel_size,) * 3, float(large_scale) ** 2)
    inner = slice(margin, margin + small_kernel_size)
    scales[inner, inner, inner] += float(small_scale) ** 2
    return scales
