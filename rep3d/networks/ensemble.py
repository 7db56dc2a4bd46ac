"""Several networks as one, by the mean of their probabilities (the paper's 5-fold ensembling of Hepatic Vessel)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from monai.utils import ensure_tuple_rep
from torch import nn

from rep3d.networks.input_sizes import divisor_of

SMALLEST = 1e-6  # probability, and distance from 1: beyond, float32 has no finite logits


class Ensemble(nn.Module):
    """(B, C_in, D, H, W) -> (B, K, D, H, W) of float32: the mean softmax, or of regions the logits of the mean sigmoid.

    Args:
        networks: each gives logits of the same classes, or of the same regions.
        has_regions: whether each output stands for itself, see `rep3d.data.regions`.

    Raises:
        ValueError: by `forward`, where there is one class only, whose softmax says nothing.
    """

    def __init__(self, networks: Sequence[nn.Module], has_regions: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.has_regions = has_regions
        known = filter(None, map(divisor_of, networks))
        divisors = [ensure_tuple_rep(divisor, 3) for divisor in known]
        self.divisor = tuple(map(math.lcm, *divisors)) if divisors else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activate: Callable[[torch.Tensor], torch.Tensor] = torch.sigmoid if self.has_regions else _softmax
        mean = reduce(torch.add, (activate(network(x).float()) for network in self.networks)) / len(self.networks)
        return mean.logit(eps=SMALLEST) if self.has_regions else mean


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] == 1:
        raise ValueError(
            "an ensemble averages the softmax of classes, and its networks give one logit: expected one checkpoint"
        )
    return logits.softmax(dim=1)
