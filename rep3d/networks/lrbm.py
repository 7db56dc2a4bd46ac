"""Low-Rank Receptive Bias Modeling: the spatial mask on a large kernel.

Equations 12-16 of "Spatially-Adaptive Gradient Re-parameterization for 3D Large Kernel Optimization" (Lee et al.,
ICML 2026). Where the text leaves a choice open, docs/method.md says which was taken and why.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from rep3d.networks.arguments import check_choice, check_positive
from rep3d.ops.depthwise_conv3d import depthwise_conv3d

GENERATOR_KERNEL_SIZES = (1, 3, 5, 7)  # Table 3
GENERATOR_DEPTHS = (1, 2, 3)  # Table 9


def check_odd(kernel_size: int) -> None:
    """Refuse a kernel without a centre."""
    check_positive("kernel_size", kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")


def centre_distance(kernel_size: int, device: torch.device | None = None) -> torch.Tensor:
    """Euclidean distance of each kernel element from the kernel's centre in voxels, (1, k, k, k). Equation 12.

    Raises:
        ValueError: k is not odd, and so has no centre.
    """
    check_odd(kernel_size)
    axis = torch.arange(kernel_size, dtype=torch.float32, device=device) - kernel_size // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.sqrt(z**2 + y**2 + x**2).unsqueeze(0)


def check_generator(generator_kernel_size: int, generator_depth: int) -> None:
    """Refuse what the mask's generator is not built from."""
    check_choice("generator_kernel_size", generator_kernel_size, GENERATOR_KERNEL_SIZES)
    check_choice("generator_depth", generator_depth, GENERATOR_DEPTHS)


class FixedMask(nn.Module):
    """M = P = 1 / (d + 1), (1, k, k, k): the prior of equation 13 with beta = 1 and nothing to learn.

    Args:
        kernel_size: k, edge of the kernel that is masked, in voxels.
    """

    distance: torch.Tensor

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        # In the state dict, so that no checkpoint of this mask loads into a network without one.
        self.register_buffer("distance", centre_distance(kernel_size))

    def forward(self) -> torch.Tensor:
        return 1 / (self.distance + 1)


class LRBM(nn.Module):
    """M = P + f(P), (C, k, k, k): a learnable prior and a generator that adapts it per channel. Equations 12-15.

    beta = exp(log_beta) stays positive and starts at 1. The generator is `generator_depth` depthwise convolutions over
    the C channels, with a sigmoid between them. Each is followed by a normalization over the kernel positions of its
    channel, which would cancel a bias. The last scale starts at 0, so that training starts at M = P.

    Args:
        channels: C, channels of the kernel that is masked.
        kernel_size: k, its edge in voxels.
        generator_kernel_size: edge of the generator's own kernels, 1, 3, 5 or 7 (paper: 7; ablated in Table 3).
        generator_depth: layers of the generator, 1, 2 or 3 (paper: 2; ablated in Table 9).

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, channels: int, kernel_size: int, generator_kernel_size: int = 7, generator_depth: int = 2):
        super().__init__()
        check_positive("channels", channels)
        check_generator(generator_kernel_size, generator_depth)
        check_odd(kernel_size)
        self.kernel_size = kernel_size
        self.log_beta = nn.Parameter(torch.zeros(()))
        self.convs = nn.ModuleList(
            nn.Conv3d(channels, channels, generator_kernel_size, groups=channels, bias=False)
            for _ in range(generator_depth)
        )
        norms = [nn.GroupNorm(channels, channels) for _ in range(generator_depth)]
        nn.init.zeros_(norms[-1].weight)
        self.norms = nn.ModuleList(norms)

    def prior(self) -> torch.Tensor:
        """P = beta / (d + beta), (1, k, k, k). Equation 13."""
        beta = self.log_beta.exp()
        return beta / (centre_distance(self.kernel_size, beta.device).to(beta.dtype) + beta)

    def generate(self, prior: torch.Tensor) -> torch.Tensor:
        """f(P) = Norm2(DConv2(sigmoid(Norm1(DConv1(P))))), (C, k, k, k). Equation 15."""
        first, *others = cast("list[nn.Conv3d]", list(self.convs))
        # P is the same in every channel, so the first convolution is one product of its patches and all the kernels.
        size = first.kernel_size[0]
        patches = F.pad(prior[0], (size // 2,) * 6).unfold(0, size, 1).unfold(1, size, 1).unfold(2, size, 1)
        x = first.weight.flatten(1) @ patches.flatten(3).flatten(0, 2).T
        x = self.norms[0](x.view(1, -1, *prior.shape[1:]))
        for conv, norm in zip(others, self.norms[1:], strict=True):
            x = norm(depthwise_conv3d(torch.sigmoid(x), conv.weight))
        return x.squeeze(0)

    def forward(self) -> torch.Tensor:
        prior = self.prior()
        return prior + self.generate(prior)
