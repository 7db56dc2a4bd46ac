"""What each part of the recipe of `rep3d new` brings, by trainings that differ in it: a table of docs/method.md."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from ignite.handlers import EMAHandler
from torch import nn

from rep3d.console.tables import markdown_table
from rep3d.data import splits
from rep3d.data.dataset_json import FILE
from rep3d.evaluation.comparison import bootstrap_interval, p_value
from rep3d.evaluation.scores import case_means, read_scores
from rep3d.files import read_json, read_record, short_digest, write_json
from rep3d.networks.rep3d import Rep3D
from rep3d.study.claims import claim, config_digests
from rep3d.study.run import BundleRun, initialize_here, run_here, scratch_folder

EPOCHS = 10  # between which the learning rate falls
MOMENTUM = 0.01  # of a step's weights in the average
MIRRORING = [{"_target_": "RandFlipd", "keys": "@keys", "prob": 0.5, "spatial_axis": axis} for axis in range(3)]
BLUR = {
    "_target_": "RandGaussianSmoothd",
    "keys": "image",
    "prob": 0.2,
    **{f"sigma_{axis}": [0.5, 1.0] for axis in "xyz"},
}
LOW_RESOLUTION = {"_target_": "RandSimulateLowResolutiond", "keys": "image", "prob": 0.25, "zoom_range": [0.5, 1.0]}

Config = dict[str, Any]
Change = Callable[[Config], Config]  # a bundle's train.json -> values by config id


def without(*transforms: str) -> Change:
    """The recipe without some of its random transforms."""
    return lambda config: _transforms([one for one in _of(config) if one["_target_"] not in transforms])


def and_then(*transforms: Config) -> Change:
    """The recipe with more random transforms."""
    return lambda config: _transforms([*_of(config), *transforms])


def times(entry: str, factor: float) -> Change:
    """The recipe with one of its numbers multiplied."""
    return lambda config: {entry: config[entry] * factor}


def deeply_supervised(_: Config) -> Config:
    """The recipe for a network that is supervised at three scales."""
    return {"network_def#_target_": "rep3d.study.recipes.DeeplySupervised"}


def _of(config: Config) -> list[Config]:
    return config["train"]["random_transforms"]


def _transforms(transforms: list[Config]) -> Config:
    return {"train#random_transforms": transforms}


PRESENT, AVERAGED, MIRRORED = "as it is", "averaged weights", "mirrored inference"
RECIPES: dict[str, Change] = {
    PRESENT: lambda config: {},
    "without rotation and scaling": without("RandAffined"),
    "without noise": without("RandGaussianNoised"),
    "without gamma": without("RandAdjustContrastd"),
    "without brightness": without("RandScaleIntensityd", "RandShiftIntensityd"),
    "with blur": and_then(BLUR),
    "with low resolution": and_then(LOW_RESOLUTION),
    "with mirroring": and_then(*MIRRORING),
    "with deep supervision": deeply_supervised,
    "half the learning rate": times("learning_rate", 0.5),
    "twice the learning rate": times("learning_rate", 2),
}


@dataclass(frozen=True)
class Cell:
    """One training, or another way to use its weights.

    Args:
        recipe: one of RECIPES, and the way.
        seed: of initialization and sampling.
        steps: of the optimizer.
        seconds: that they took.
        dice: of each validation case, mean over its labels.
    """

    recipe: str
    seed: int
    steps: int
    seconds: float
    dice: list[float]


class DeeplySupervised(Rep3D):
    """A Rep3D that gives, in training, logits of 1, 1/2, 1/4 and 1/8 of the size."""

    def __init__(self, in_channels: int, out_channels: int, *, feature_size: Sequence[int], **arguments: Any) -> None:
        super().__init__(in_channels, out_channels, feature_size=feature_size, **arguments)
        self.heads = nn.ModuleList(nn.Conv3d(channels, out_channels, 1) for channels in feature_size[1:])

    def forward(self, x: torch.Tensor) -> Any:
        if not self.training:
            return super().forward(x)
        maps: list[torch.Tensor] = []
        hooks = [
            up.register_forward_hook(lambda *called: maps.append(called[-1])) for up in (self.up2, self.up3, self.up4)
        ]
        logits = super().forward(x)
        for hook in hooks:
            hook.remove()
        return [logits, *(head(y) for head, y in zip(self.heads, reversed(maps), strict=True))]


class Mirrored(nn.Module):
    """A network whose logits are the means of those of an image mirrored along all axes, as nnU-Net predicts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        axes = [one for n in range(4) for one in itertools.combinations((2, 3, 4), n)]
        return torch.stack([self.network(x.flip(along)).flip(along) for along in axes]).mean(0)


def compare_recipes(bundle: Path, output: Path, recipes: Sequence[str], seeds: Sequence[int], steps: int) -> str:
    """Run the cells that are missing, each with a JSON file of its own; the table of all cells, in Markdown.

    Args:
        bundle: folder of a bundle of `rep3d new` with a Rep3D; the validation cases of its data are scored.
        output: receives the cells.
        recipes: some of RECIPES.
        seeds: of the trainings.
        steps: of the optimizer, a multiple of EPOCHS.

    Raises:
        ValueError: an unknown recipe, or such steps, or `output` has cells of another bundle, or of the bundle with
            other data or another split.
    """
    if not set(recipes) <= set(RECIPES):
        raise ValueError(f"recipes is {list(recipes)}, expected some of {', '.join(RECIPES)}")
    if steps < EPOCHS or steps % EPOCHS:
        raise ValueError(f"steps is {steps}, expected a multiple of {EPOCHS}")
    data = short_digest(*(bundle / "data" / name for name in (FILE, splits.FILE)))
    claim(output, {"bundle": bundle.name, "data": data, **config_digests(bundle, ("train", "evaluate"))})
    for seed in seeds:
        for recipe in recipes:
            folder = output / f"{steps}_steps" / f"seed{seed}"
            if not (folder / f"{recipe}.json").exists():
                folder.mkdir(parents=True, exist_ok=True)
                for cell in reversed(run_cells(bundle, recipe, seed, steps)):  # the recipe's own, which counts, last
                    write_json(folder / f"{cell.recipe}.json", asdict(cell))
    cells = [read_record(path, Cell) for path in sorted(output.glob(f"{steps}_steps/*/*.json"))]
    return result_table([cell for cell in cells if cell is not None], steps)


def run_cells(bundle: Path, recipe: str, seed: int, steps: int) -> list[Cell]:
    """Train, and score the last weights; of the recipe as it is also their average, of mirroring mirrored inference."""
    config = read_json(bundle / "configs/train.json")
    changes = RECIPES[recipe](config)
    with scratch_folder() as folder:
        told = {"ckpt_dir": folder, "output_dir": folder, "seed": seed, "num_workers": 0}
        length = {"epochs": EPOCHS, "steps_per_epoch": steps // EPOCHS, "val_interval": 0}
        workflow = initialize_here(BundleRun(bundle, "training", ["train.json"], {**told, **length, **changes}))
        trainer, network = (workflow.parser.get_parsed_content(name) for name in ("train#trainer", "network"))
        average = averaging(network)
        average.attach(trainer)
        workflow.run()
        workflow.finalize()
        seconds = trainer.state.times["COMPLETED"]
        forms: dict[str, Config] = {recipe: {}}
        if recipe == PRESENT:
            torch.save({"network": average.ema_model.state_dict()}, Path(folder) / "average.pt")
            forms[AVERAGED] = {"checkpoint": f"{folder}/average.pt"}
        if recipe == "with mirroring":
            deployed = read_json(bundle / "configs/evaluate.json")["network"]
            forms[f"{recipe}, {MIRRORED}"] = {
                "network": {"_target_": "rep3d.study.recipes.Mirrored", "network": deployed}
            }
        return [
            Cell(name, seed, steps, seconds, _dice(bundle, {**told, **changes, **form})) for name, form in forms.items()
        ]


def averaging(network: nn.Module) -> EMAHandler:
    """Handler of a trainer whose `ema_model` has the average of the network's weights and BatchNorm statistics."""
    return EMAHandler(network, momentum=MOMENTUM, handle_buffers="update")


def _dice(bundle: Path, told: Config) -> list[float]:
    validation = {"validate#dataset#data": "$rep3d.data.load_datalist(@dataset_dir, 'validation', @fold)"}
    run_here(BundleRun(bundle, "evaluating", ["train.json", "evaluate.json"], {**told, **validation}))
    return [float(value) for value in case_means(read_scores(told["output_dir"]), "dice")]


def result_table(cells: Sequence[Cell], steps: int) -> str:
    """Markdown: per recipe the mean Dice and its difference to the present one, case by case, and the pace.

    Only seeds that the present recipe has as well count for a difference.
    """
    by_recipe: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        by_recipe.setdefault(cell.recipe, {})[cell.seed] = cell
    order = [*RECIPES, AVERAGED]
    place = {name: order.index(name.partition(",")[0]) for name in by_recipe}
    present = by_recipe.get(PRESENT, {})
    rows = []
    for name, mine in sorted(by_recipe.items(), key=lambda one: (place[one[0]], one[0])):
        dice = mean(mean(cell.dice) for cell in mine.values())
        row = [name, len(mine), f"{dice:.4f}", "", "", "", ""]
        both = sorted(mine.keys() & present.keys())
        if both and name != PRESENT:
            before, after = (np.mean([one[seed].dice for seed in both], axis=0) for one in (present, mine))
            low, high = bootstrap_interval(after - before)
            pace = mean(mine[seed].seconds for seed in both) / mean(present[seed].seconds for seed in both)
            row[3:] = [
                f"{np.mean(after - before):+.4f}",
                f"{low:+.4f} to {high:+.4f}",
                p_value(after, before),
                f"{pace:.2f}",
            ]
        rows.append(row)
    titles = [f"recipe, {steps} steps", "seeds", "mean Dice", "difference", "95 % interval", "p", "time of a step"]
    return markdown_table(titles, rows)
