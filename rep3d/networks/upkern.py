"""UpKern: a network of large kernels starts from the weights of the same network with smaller ones.

"MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation" (Roy et al., MICCAI 2023),
https://arxiv.org/abs/2303.09975: kernels are resampled trilinearly, everything else is copied.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from rep3d.networks.weights import Weights, check_finite, differences

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def upkern(small_state_dict: Weights, large_model: ModuleT, *, keep_sums: bool = False) -> ModuleT:
    """Load the weights of a network with smaller kernels, and return the network.

    What has the same shape in both is copied, kernels are grown. What a mask knows of its kernel's size stays the large
    network's own, so that a masked kernel W M grows by W: M is then the one of the large kernel.

    Args:
        small_state_dict: of a network that differs by smaller kernels only.
        large_model: receives the weights.
        keep_sums: see `grow_kernel`.

    Raises:
        NonFiniteWeights: weights that are not finite.
        ValueError: the networks differ otherwise; the large one is then as it was.
    """
    check_finite(small_state_dict, "upkern")
    own = large_model.state_dict()
    grown = fitting_weights(small_state_dict, large_model, keep_sums=keep_sums)
    if grown.keys() != own.keys() or small_state_dict.keys() - own.keys():
        told = differences(small_state_dict, own)
        raise ValueError(f"upkern: expected weights of the same network with smaller kernels: {told}")
    large_model.load_state_dict(grown)
    return large_model


def fitting_weights(weights: Weights, network: nn.Module, *, keep_sums: bool = False) -> dict[str, torch.Tensor]:
    """What a network takes of some weights: tensors of the same name and shape, kernels grown, its own constants.

    Args:
        weights: a state dict.
        network: its constants are buffers of a kernel's size, (1, k, k, k), such as the distances of a mask.
        keep_sums: see `grow_kernel`.
    """
    own, learned = network.state_dict(), dict(network.named_parameters())
    fitting: dict[str, torch.Tensor] = {}
    for name in own.keys() & weights.keys():
        small, large = weights[name], own[name]
        if small.shape == large.shape:
            fitting[name] = small
        elif is_smaller_kernel(small, large):
            fitting[name] = grow_kernel(small, large.shape[-1], keep_sum=keep_sums)
        elif name not in learned and small.ndim == 4 == large.ndim and small.shape[0] == 1 == large.shape[0]:
            fitting[name] = large
    return fitting


def is_smaller_kernel(small: torch.Tensor, large: torch.Tensor) -> bool:
    """Whether two tensors are cubic kernels, (C_out, C_in, k, k, k), of odd size for the same channels."""
    sizes = [*small.shape[2:], *large.shape[2:]]
    cubes = len(set(small.shape[2:])) == 1 == len(set(large.shape[2:])) and all(size % 2 for size in sizes)
    alike = small.ndim == 5 == large.ndim and small.shape[:2] == large.shape[:2]
    return alike and cubes and 1 < small.shape[-1] < large.shape[-1]


def grow_kernel(kernel: torch.Tensor, size: int, *, keep_sum: bool = False) -> torch.Tensor:
    """A kernel of a larger edge by trilinear resampling, (C_out, C_in, k, k, k) -> (C_out, C_in, size, size, size).

    Args:
        kernel: cubic.
        size: in voxels.
        keep_sum: each element shares itself out over its place in the large kernel, so that the sum stays. Otherwise it
            grows about as the volume does, 4.6 times from 3 to 5, and a feature map's mean with it.
    """
    if keep_sum:
        # Of each element along an axis: how much of it there is after resampling.
        shares = F.interpolate(torch.eye(kernel.shape[-1])[None], size=size, mode="linear")[0].sum(1).to(kernel)
        kernel = kernel / (shares[:, None, None] * shares[:, None] * shares)
    return F.interpolate(kernel, size=(size,) * 3, mode="trilinear")
