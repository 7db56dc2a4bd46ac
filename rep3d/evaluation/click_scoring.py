"""What clicks achieve with the network of a bundle on its test cases: the work of `run evaluating`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.inferers import Inferer
from monai.utils import ensure_tuple
from torch import nn

from rep3d.data.cases import Item
from rep3d.evaluation.click_cases import named_labels
from rep3d.evaluation.click_methods import CORRECTING, ours
from rep3d.evaluation.click_summary import write_summary
from rep3d.evaluation.clicks import Method, deepest_user, evaluate
from rep3d.files import short_digest
from rep3d.interactive.working_grid import SIZE

logger = logging.getLogger(__name__)

OURS, USER = "ours", "deepest"  # as scripts/evaluate_interactive.py names them


def score_clicks(
    network: nn.Module,
    inferer: Inferer,
    items: Sequence[Item],
    dataset_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    checkpoint: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    labels: str | int | Sequence[int] = (),
    size: int = SIZE,
    device: str | torch.device = "cpu",
) -> None:
    """Follow the clicks of a simulated user on every case and label, and log Dice after 0, 1, 2, 3, 5 and 10 of them.

    Writes summary.md, summary.json, clicks.csv and clicks.png; called again with the same weights, it goes on where it
    was interrupted.

    Args:
        network: deployed.
        inferer: how it is run, as in its training.
        items: {"image": path, "label": path} of the cases.
        dataset_dir: their folder, whose `dataset.json` names the labels.
        output_dir: receives the files.
        checkpoint: file or files of the network's weights, by which results are told from those of others.
        labels: ids, of which each is a label; empty: all; "together": all as one label.
        size: voxels of the working grid along each axis.
        device: of the network.

    Raises:
        ValueError: labels that the data set does not name, or a file that cannot be used.
    """
    folder = Path(output_dir)
    chosen = named_labels(Path(dataset_dir), labels if isinstance(labels, str) else ensure_tuple(labels))
    weights = short_digest(*map(Path, [checkpoint] if isinstance(checkpoint, str | os.PathLike) else checkpoint))
    method = Method(
        ours(lambda channels: inferer(channels.to(device), network), size), settings={"weights": weights, **CORRECTING}
    )
    record = folder / "records" / f"{weights}.json"
    settings = {"labels": chosen, "user": USER, "size": size}
    records = evaluate(method, items, chosen, record, settings, lambda case: deepest_user, doing="Clicking")
    told = f"{len(items)} case(s), user: {USER}"
    logger.info("%s", write_summary({OURS: records}, {OURS: True}, folder, told))
    logger.info("tables and plot: %s", os.path.abspath(folder))
