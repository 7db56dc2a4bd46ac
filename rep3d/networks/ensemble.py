"""Several networks as one, by the mean of their softmax outputs (the paper's 5-fold ensembling of Hepatic Vessel)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class Ensemble(nn.Module):
    """(B, C_in, D, H, W) -> probabilities (B, classes, D, H, W), float32.

    Args:
        networks: each gives logits of the same classes.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(network(x).float().softmax(dim=1) for network in self.networks) / len(self.networks)
