"""What large kernels learn from and where they look: receptive fields, masks, and how each decays with the distance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from rep3d.networks.lrbm import LRBM, FixedMask


class KernelMask(NamedTuple):
    """Of one block: P, (k, k, k), and M, (C or 1, k, k, k)."""

    block: str
    prior: torch.Tensor
    mask: torch.Tensor


def receptive_fields(network: nn.Module, images: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Effective receptive field of each stage of a network's encoder, a list of (D, H, W).

    The gradient of the centre voxel of what the stage puts out, all channels summed, with respect to the image: its
    absolute value, summed over the image's channels and averaged over images, in units of its largest value.

    Args:
        network: has its encoder's stages as `encoder.stages`. It computes in eval mode.
        images: (B, C_in, D, H, W), all of one size.

    Raises:
        ValueError: a network without such stages, or no image.
    """
    encoder = getattr(network, "encoder", None)
    stages = getattr(encoder, "stages", None)
    if encoder is None or stages is None:
        raise ValueError(f"{type(network).__name__} has no encoder.stages, expected for example Rep3D")
    maps: list[torch.Tensor] = []
    hooks = [stage.register_forward_hook(lambda module, inputs, output: maps.append(output)) for stage in stages]
    sums: list[torch.Tensor] = []
    training = network.training
    network.eval()
    try:
        for image in images:
            maps.clear()
            x = image.detach().clone().requires_grad_()
            encoder(x)
            sums = sums or [torch.zeros(x.shape[2:]) for _ in maps]
            for field, stage in zip(sums, maps, strict=True):
                d, h, w = (edge // 2 for edge in stage.shape[2:])
                (gradient,) = torch.autograd.grad(stage[:, :, d, h, w].sum(), x, retain_graph=True)
                field += gradient.abs().sum((0, 1)).cpu()
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    if not sums:
        raise ValueError("receptive_fields: no images, expected at least one")
    return [field / field.max().clamp(min=torch.finfo(field.dtype).tiny) for field in sums]


def kernel_masks(network: nn.Module) -> list[KernelMask]:
    """The masks on a network's kernels, as they are; a fixed one is its own prior."""
    masks = []
    for name, module in network.named_modules():
        if isinstance(module, LRBM | FixedMask):
            with torch.no_grad():
                mask = module()
                prior = module.prior() if isinstance(module, LRBM) else mask
            masks.append(KernelMask(name.removesuffix(".mask"), prior[0].cpu(), mask.cpu()))
    return masks


def effective_kernels(network: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the kernels that convolve, (C, 1, k, k, k), by the names of their modules."""
    with torch.no_grad():
        return {
            name: module.effective_kernel().detach().clone()
            for name, module in network.named_modules()
            if hasattr(module, "effective_kernel")
        }


def by_distance(values: torch.Tensor) -> list[float]:
    """Mean of (D, H, W) over all elements of about the same distance from the centre: 0, 1, 2, ... elements."""
    axes = [torch.arange(edge, dtype=torch.float32) - edge // 2 for edge in values.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    shells = (z**2 + y**2 + x**2).sqrt().round().long().flatten()
    sums = torch.zeros(int(shells.max()) + 1, dtype=torch.float64).index_add_(0, shells, values.double().flatten())
    return (sums / torch.bincount(shells)).tolist()


def radius_of_share(field: torch.Tensor, share: float) -> float:
    """Edge-to-centre distance in voxels of the smallest cube around the centre that holds a share of a field's sum."""
    centre = [edge // 2 for edge in field.shape]
    for radius in range(max(field.shape)):
        inside = tuple(slice(max(c - radius, 0), c + radius + 1) for c in centre)
        if field[inside].sum() >= share * field.sum():
            return float(radius)
    return float(max(field.shape))
