"""Weights half-way between those that a training began with and what it made of them.

A short training on few labels forgets some of what the network knew; half-way it keeps that, and most of what it has
learned (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022).
"""

from __future__ import annotations

from pathlib import Path

import torch

from rep3d.training.checkpoints import read_weights, save_whole

SHARE = 0.5  # of the way that the training went


def save_half_way(began: Path, trained: Path, target: Path) -> None:
    """Write the weights between those of two files; those that were trained where the networks differ.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: one is no checkpoint.
        OSError: `target` cannot be written.
    """
    first, last = read_weights(began), read_weights(trained)
    is_same = {name: one.shape for name, one in first.items()} == {name: one.shape for name, one in last.items()}
    between = {
        name: torch.lerp(first[name].to(one.dtype), one, SHARE) if is_same and one.is_floating_point() else one
        for name, one in last.items()
    }
    save_whole(between, target)
