"""What predictions cost in time and in Dice, by how their windows are laid: the tables of docs/performance.md."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import nn

from rep3d.console.progress import track
from rep3d.console.tables import markdown_table
from rep3d.data.regions import scored_regions
from rep3d.deploy import reparameterize
from rep3d.evaluation.comparison import bootstrap_interval
from rep3d.evaluation.scores import Scores, case_means, means, score_regions, table
from rep3d.io.volumes import read_volume
from rep3d.precision import has_fast_bfloat16
from rep3d.shipped import overlays_of
from rep3d.study.run import BundleRun, parse
from rep3d.training.checkpoints import trained_on

INFERER = "sliding_window"
WINDOWS = f"{INFERER}#inferer"
AIR = -1024  # HU


@dataclass(frozen=True)
class Preset:
    """How windows are laid.

    Args:
        overlap: of neighbours, as a share of their edges.
        scale: of their edges, beside those of the patches in training.
        bfloat16: the network computes in it.
        body: windows without body are left out, where the bundle knows bodies.
    """

    overlap: float
    scale: float = 1.0
    bfloat16: bool = False
    body: bool = True

    def __str__(self) -> str:
        words = [
            f"overlap {self.overlap:g}",
            "" if self.scale == 1 else f"edges times {self.scale:g}",
            "bfloat16" if self.bfloat16 else "",
            "" if self.body else "without body as well",
        ]
        return ", ".join(filter(None, words))

    def entries(self, patch_size: Sequence[int]) -> dict[str, Any]:
        """Values by config id."""
        entries = {
            f"{INFERER}#enabled": self.bfloat16,
            f"{WINDOWS}#overlap": self.overlap,
            f"{WINDOWS}#roi_size": [round(edge * self.scale) for edge in patch_size],
        }
        return entries if self.body else {**entries, f"{WINDOWS}#body": None}


PRESETS = (
    Preset(0.5, body=False),
    Preset(0.5),
    Preset(0.25),
    Preset(0.125),
    Preset(0.25, scale=1.5),
    Preset(0.5, bfloat16=True),
)


@dataclass
class Cost:
    """Of all scans so far.

    Args:
        windows: that the network computed.
        seconds: from the image on the bundle's grid to the label map there.
    """

    windows: int = 0
    seconds: float = 0.0


def compare_presets(
    bundle: Path, dataset_dir: str, checkpoint: Path, cases: int | None = None, presets: Sequence[Preset] = PRESETS
) -> str:
    """Time and Dice of each preset, and what it loses against the first: a table in Markdown.

    Before it stands which of the cases the weights were trained on.

    Args:
        bundle: its folder.
        dataset_dir: a data set, whose test cases are segmented, or else those of validation.
        checkpoint: trained weights.
        cases: the first so many; None: all.
        presets: take turns at every case.
    """
    told = {"dataset_dir": dataset_dir, "checkpoint": str(checkpoint), "num_workers": 0}
    run = BundleRun(bundle, "evaluating", ["train.json", "evaluate.json", *overlays_of(checkpoint)], told)
    parser = parse(run)
    network, dataset, postprocessing, label_names, regions, ignored_label = (
        parser.get_parsed_content(name)
        for name in (
            "network",
            "validate#dataset",
            "validate#postprocessing",
            "label_names",
            "regions",
            "ignored_label",
        )
    )
    scored = scored_regions(label_names, regions)
    inferers = _inferers(run, presets)
    costs = {preset: Cost() for preset in inferers}
    scores: dict[Preset, Scores] = {preset: {} for preset in inferers}
    numbers = range(len(dataset))[:cases]
    for case in track(numbers, "Segmenting", "case"):
        item = dataset[case]
        for preset, inferer in inferers.items():
            pred = _segment(item["image"], network, inferer, costs[preset])
            maps = postprocessing({**item, "pred": pred})
            prediction, truth = (maps[key][0].cpu().numpy() for key in ("pred", "label"))
            affine = np.asarray(item["label"].affine, dtype=np.float64)
            scores[preset][str(case)] = score_regions(prediction, truth, scored, affine, ignored_label)
    seen = trained_on(checkpoint, dataset.data[:cases])
    note = f"**The weights were trained on {len(seen)} of these cases**: {', '.join(seen)}\n\n" if seen else ""
    return note + _table(costs, len(numbers), scores)


def time_presets(bundle: Path, scan: Path, presets: Sequence[Preset] = PRESETS) -> str:
    """Time of each preset with the bundle's network, untrained, on one scan: a table in Markdown."""
    run = BundleRun(bundle, "evaluating", ["inference.json"], {"dataset_dir": str(scan)})
    parser = parse(run)
    network = reparameterize(parser.get_parsed_content("network_def").eval()).to(parser.get_parsed_content("device"))
    (item,) = parser.get_parsed_content("dataset")
    inferers = _inferers(run, presets)
    costs = {preset: Cost() for preset in inferers}
    for preset, inferer in track(inferers.items(), "Timing", "preset"):
        _segment(item["image"], network, inferer, costs[preset])
    return f"{'x'.join(map(str, item['image'].shape[1:]))} voxels\n\n{_table(costs, 1)}"


def stretch(scan: Path, path: Path, shape: Sequence[int], spacing: Sequence[float], air: int = 0) -> None:
    """Resample a CT to a shape and call its voxels' distances what one likes: for times alone.

    Args:
        scan: NIfTI file.
        path: of the NIfTI file that is written.
        shape: voxels along its axes.
        spacing: millimetres.
        air: voxels of it on both sides of the first axis, beside the shape.
    """
    voxels = torch.from_numpy(read_volume(scan)[0].astype(np.float32))
    voxels = F.interpolate(voxels[None, None], tuple(shape), mode="trilinear")
    voxels = F.pad(voxels, (0, 0, 0, 0, air, air), value=AIR)[0, 0]
    nib.save(nib.Nifti1Image(voxels.round().short().numpy(), np.diag([*spacing, 1.0])), path)


def _inferers(run: BundleRun, presets: Sequence[Preset]) -> dict[Preset, Inferer]:
    """Without those that compute in bfloat16 where that is slow."""
    inferers = {}
    for preset in presets:
        parser = parse(run)
        if preset.bfloat16 and not has_fast_bfloat16(parser.get_parsed_content("device")):
            continue
        parser.update(preset.entries(parser.get_parsed_content("patch_size")))
        inferers[preset] = parser.get_parsed_content(INFERER)
    return inferers


@torch.no_grad()
def _segment(image: torch.Tensor, network: nn.Module, inferer: Inferer, cost: Cost) -> torch.Tensor:
    """(C, D, H, W) -> label map (1, D, H, W)."""

    def count(_: nn.Module, windows: tuple[torch.Tensor, ...]) -> None:
        cost.windows += len(windows[0])

    image = image.to(next(network.parameters()).device)
    hook = network.register_forward_pre_hook(count)
    start = time.perf_counter()
    (label_map,) = inferer(image.unsqueeze(0), network).cpu()
    cost.seconds += time.perf_counter() - start
    hook.remove()
    return label_map


def _table(costs: Mapping[Preset, Cost], scans: int, scores: Mapping[Preset, Scores] | None = None) -> str:
    first = next(iter(costs))
    rows = [
        [
            preset,
            round(cost.windows / scans),
            f"{cost.seconds / scans:.2f}",
            f"{costs[first].seconds / cost.seconds:.2f}",
        ]
        for preset, cost in costs.items()
    ]
    titles = ["windows", "in number, a scan", "s a scan", "times as fast"]
    if scores is None:
        return markdown_table(titles, rows)
    before = case_means(scores[first], "dice")
    for row, of_preset in zip(rows, scores.values(), strict=True):
        lost = before - case_means(of_preset, "dice")
        low, high = bootstrap_interval(lost)
        row += [f"{means(table(of_preset, 'dice'))[-1]:.4f}", f"{np.nanmean(lost):.4f}", f"{low:.4f} to {high:.4f}"]
    return markdown_table([*titles, "mean Dice", "Dice lost", "95 % interval"], rows)
