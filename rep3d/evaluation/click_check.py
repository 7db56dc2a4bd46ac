"""A short, fixed score of clicks by which networks are told better or worse: a few structures of each case."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.inferers import Inferer
from torch import nn

from rep3d.console.progress import Progress
from rep3d.data.cases import Item, item_name
from rep3d.evaluation.click_cases import load_case
from rep3d.evaluation.click_methods import ours
from rep3d.evaluation.clicks import deepest_user, follow
from rep3d.files import write_csv
from rep3d.interactive.cubes import MIN_VOXELS
from rep3d.interactive.working_grid import SIZE

logger = logging.getLogger(__name__)

CHECKED = "checked_clicks.csv"
STRUCTURES = 3  # of a case, at most


def check_clicks(
    network: nn.Module,
    inferer: Inferer,
    items: Sequence[Item],
    output_dir: str | os.PathLike,
    *,
    clicks: int = 5,
    size: int = SIZE,
    device: str | torch.device = "cpu",
) -> float:
    """Follow the first clicks of the evaluating user on at most `STRUCTURES` labels of each case.

    Which labels these are depends on the case's name and label map only. Writes `CHECKED`: case, image, label and Dice.

    Args:
        network: deployed.
        inferer: how it is run, as in its training.
        items: {"image": path, "label": path} of the cases.
        output_dir: receives the file.
        clicks: after which Dice counts, each on the deepest voxel of the largest error.
        size: voxels of the working grid along each axis.
        device: of the network.

    Returns:
        The mean Dice over all structures.

    Raises:
        ValueError: no case has a label of at least `MIN_VOXELS` voxels, or a file that cannot be used.
    """
    segment = ours(lambda channels: inferer(channels.to(device), network), size)
    rows: list[dict[str, object]] = []
    with Progress(len(items), "Clicking", "case") as progress:
        for item in items:
            case = load_case(item)
            for label in _chosen(case.label, item_name(item)):
                series = follow(segment, case.image, case.spacing, case.label == label, deepest_user, most=clicks)
                row = {"case": case.name, "image": item["image"], "label": label}
                rows.append({**row, "dice": f"{series.after(clicks):.5f}"})
            progress.update()
    if not rows:
        raise ValueError(f"none of the {len(items)} case(s) has a label of at least {MIN_VOXELS} voxels to click on")
    write_csv(Path(output_dir) / CHECKED, rows)
    mean = float(np.mean([float(str(row["dice"])) for row in rows]))
    logger.info("Dice after %d clicks: %.4f, mean over %d structures", clicks, mean, len(rows))
    return mean


def _chosen(label: torch.Tensor, name: str) -> list[int]:
    """Ids, the same ones for a case at any time."""
    ids, counts = label[label > 0].unique(return_counts=True)
    large = [int(index) for index, count in zip(ids, counts, strict=True) if count >= MIN_VOXELS]
    return sorted(random.Random(name).sample(large, min(STRUCTURES, len(large))))
