"""Weights and an image by a formula, so that outputs of released networks are small to keep."""

import math

import torch


def formula_state(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """A state dict of these names and shapes: no two tensors alike, and none that a layer could do without."""
    return {name: _tensor(name, shape, place) for place, (name, shape) in enumerate(shapes.items(), 1)}


def _tensor(name: str, shape: list[int], place: int) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(1)
    count = math.prod(shape)
    waves = torch.sin(12.9898 * torch.arange(count, dtype=torch.float64) + 78.233 * place).float().view(shape)
    if len(shape) > 1:
        return waves / math.sqrt(max(count / shape[0], 1))
    is_scale = name.endswith(("norm.weight", "running_var")) or ("norm" in name and name.endswith("weight"))
    return 1 + 0.3 * waves if is_scale else 0.3 * waves


def formula_image() -> torch.Tensor:
    """(1, 1, 32, 16, 16)."""
    return torch.sin(0.37 * torch.arange(2**13, dtype=torch.float64) ** 1.1).float().view(1, 1, 32, 16, 16)
