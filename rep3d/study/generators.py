"""Compares the open choices of the mask's generator, by the bundle's own training: the table of docs/method.md.

Four forms of the generator (normalization over the kernel positions of each channel, or over the channels; last scale
starting at 0 or at 1), beside the fixed prior and no mask at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any, cast

from torch import nn

from rep3d.console.tables import markdown_table
from rep3d.evaluation.scores import read_scores, table
from rep3d.files import read_record, write_json
from rep3d.networks.lrbm import LRBM
from rep3d.networks.rep3d import ChannelNorm, Rep3D
from rep3d.study.claims import claim, config_digests
from rep3d.study.run import BundleRun, run_here, scratch_folder

FORMS = ("positions-0", "positions-1", "channels-0", "channels-1", "fixed", "none")
PATCH = (48, 64, 48)  # holds nearly every volume whole, in training and in scoring
LEARNING_RATE = 1e-3
EPOCHS = 10  # between which the learning rate falls


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        form: one of FORMS.
        seed: of initialization and sampling.
        steps: of the optimizer.
        seconds: that they took.
        dice: of each label, mean over the validation cases.
    """

    form: str
    seed: int
    steps: int
    seconds: float
    dice: list[float]


def compare_generators(
    bundle: Path, dataset_dir: str, output: Path, forms: Sequence[str], seeds: Sequence[int], steps: int
) -> str:
    """Run the cells that are missing, each with a JSON file of its own; the table of all cells, in Markdown.

    Args:
        bundle: the folder of `msd_hippocampus`, or of another bundle with a Rep3D and two labels.
        dataset_dir: its data set.
        output: receives the cells.
        forms: some of FORMS.
        steps: of the optimizer, a multiple of EPOCHS.

    Raises:
        ValueError: an unknown form, or such steps, or `output` has cells of another bundle or data set.
    """
    if not set(forms) <= set(FORMS):
        raise ValueError(f"forms is {list(forms)}, expected some of {', '.join(FORMS)}")
    if steps < EPOCHS or steps % EPOCHS:
        raise ValueError(f"steps is {steps}, expected a multiple of {EPOCHS}")
    configs = config_digests(bundle, ("train", "evaluate", "inference"))
    claim(output, {"bundle": bundle.name, "data set": str(Path(dataset_dir).resolve()), **configs})
    for seed in seeds:
        for form in forms:
            path = output / f"cell_{form}_{steps}_{seed}.json"
            if not path.exists():
                write_json(path, asdict(run_cell(bundle, dataset_dir, form, seed, steps)))
    cells = [read_record(path, Cell) for path in sorted(output.glob(f"cell_*_{steps}_*.json"))]
    return result_table([cell for cell in cells if cell is not None], steps)


def build_network(form: str, modulation: str, **arguments: Any) -> Rep3D:
    """A network with a form of the generator.

    Args:
        form: one of FORMS.
        modulation: that of the bundle, which `form` replaces.
        arguments: those of the bundle for `rep3d.Rep3D`.
    """
    kind, _, start = form.partition("-")
    network = Rep3D(**arguments, modulation=kind if kind in ("fixed", "none") else "lrbm")
    for mask in network.modules():
        if isinstance(mask, LRBM):
            if kind == "channels":
                channels = cast(nn.GroupNorm, mask.norms[0]).num_channels
                mask.norms = nn.ModuleList(ChannelNorm(channels) for _ in mask.norms)
            nn.init.constant_(cast(nn.Parameter, mask.norms[-1].weight), float(start))
    return network


def run_cell(bundle: Path, dataset_dir: str, form: str, seed: int, steps: int) -> Cell:
    """Train on the training cases, and score the last weights on the validation cases."""
    with scratch_folder() as folder:
        overrides = {
            "dataset_dir": dataset_dir,
            "ckpt_dir": folder,
            "output_dir": folder,
            "seed": seed,
            "network_def#_target_": "rep3d.study.generators.build_network",
            "network_def#form": form,
            "patch_size": list(PATCH),
        }
        training = {
            "batch_size": 1,
            "learning_rate": LEARNING_RATE,
            "epochs": EPOCHS,
            "val_interval": 0,
            "train#trainer#epoch_length": steps // EPOCHS,
            "train#random_transforms": random_transforms(),
        }
        trained = run_here(BundleRun(bundle, "training", ["train.json"], overrides | training))
        seconds = trained.parser.get_parsed_content("train#trainer").state.times["COMPLETED"]
        validation = {"validate#dataset#data": "$rep3d.data.load_datalist(@dataset_dir, 'validation', @fold)"}
        run_here(BundleRun(bundle, "evaluating", ["train.json", "evaluate.json"], overrides | validation))
        dice = table(read_scores(folder), "dice")
    return Cell(form, seed, steps, seconds, [float(value) for value in dice.mean(axis=0)])


def random_transforms() -> list[dict[str, Any]]:
    """The augmentation that the table was measured with, as a config: lighter than the bundle's."""
    return [
        {"_target_": "SpatialPadd", "keys": "@keys", "spatial_size": "@patch_size"},
        {"_target_": "RandSpatialCropd", "keys": "@keys", "roi_size": "@patch_size", "random_size": False},
        {
            "_target_": "RandAffined",
            "keys": "@keys",
            "prob": 0.5,
            "rotate_range": [0.3, 0.3, 0.3],
            "scale_range": [0.1, 0.1, 0.1],
            "mode": "@interpolation",
            "padding_mode": "zeros",
        },
        {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.1, "prob": 0.5},
        {"_target_": "RandShiftIntensityd", "keys": "image", "offsets": 0.1, "prob": 0.5},
    ]


def result_table(cells: Sequence[Cell], steps: int) -> str:
    """Markdown: per form the mean Dice of each label, the spread over the seeds, and the pace."""
    header = (f"generator, {steps} steps", "seeds", "anterior", "posterior", "mean", "spread of the mean", "s a step")
    rows = []
    for form in FORMS:
        mine = [cell for cell in cells if cell.form == form]
        if mine:
            dice = [f"{mean(cell.dice[label] for cell in mine):.4f}" for label in (0, 1)]
            means = [mean(cell.dice) for cell in mine]
            pace = mean(cell.seconds / cell.steps for cell in mine)
            spread = f"{min(means):.4f}-{max(means):.4f}"
            rows.append((form, len(mine), *dice, f"{mean(means):.4f}", spread, f"{pace:.2f}"))
    return markdown_table(header, rows)
