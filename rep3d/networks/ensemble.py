"""Several networks as one, by the mean of their softmax outputs (the paper's 5-fold ensembling of Hepatic Vessel)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from monai.utils import ensure_tuple_rep
from torch import nn

from rep3d.networks.input_sizes import divisor_of


class Ensemble(nn.Module):
    """(B, C_in, D, H, W) -> probabilities (B, classes, D, H, W), float32.

    Args:
        networks: each gives logits of the same classes.

    Raises:
        ValueError: by `forward`, where there is one class only, whose softmax says nothing.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        known = filter(None, map(divisor_of, networks))
        divisors = [ensure_tuple_rep(divisor, 3) for divisor in known]
        self.divisor = tuple(map(math.lcm, *divisors)) if divisors else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return reduce(torch.add, (_probabilities(network(x).float()) for network in self.networks)) / len(self.networks)


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    if logits.shape[1] == 1:
        raise ValueError(
            "an ensemble averages the softmax of classes, and its networks give one logit: expected one checkpoint"
        )
    return logits.softmax(dim=1)
