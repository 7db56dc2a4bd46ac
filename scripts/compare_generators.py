"""Compare the open choices of the mask's generator on Hippocampus: the table of docs/method.md.

    python scripts/compare_generators.py --dataset_dir DIR --output_dir runs/generators

Four forms of the generator (LayerNorm over the channels, or over the kernel positions of each channel; last scale
starting at 0 or at 1), beside the fixed prior and no mask at all. Every form and seed is one cell with a JSON file of
its own: finished cells are not run again, and several processes may share an output folder when each takes its own
`--seeds` or `--forms`.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import fire
import torch
from fire.decorators import SetParseFn
from monai.data import CacheDataset, DataLoader, decollate_batch
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandAffined,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    SpatialPadd,
)
from monai.utils import set_determinism
from torch import nn
from tqdm import tqdm

from rep3d import Rep3D
from rep3d.console.tables import markdown_table
from rep3d.data.lists import load_datalist
from rep3d.files import read_json, write_json
from rep3d.networks.lrbm import LRBM
from rep3d.networks.rep3d import ChannelNorm
from rep3d.precision import check_layers
from rep3d.training.loop import parameter_groups

FORMS = ("positions-0", "positions-1", "channels-0", "channels-1", "fixed", "none")
KEYS = ("image", "label")
PATCH = (48, 64, 48)  # holds nearly every volume whole, in training and in scoring
LEARNING_RATE = 1e-3


@SetParseFn(str, "dataset_dir", "output_dir")  # a folder may be called 2024_01_05
def main(dataset_dir: str, output_dir: str, steps: int = 400, seeds=(0, 1, 2), forms=FORMS, threads: int = 1) -> None:
    """Run the missing cells of `forms` x `seeds` and print the table of all cells in `output_dir`.

    Args:
        dataset_dir: MSD Task04_Hippocampus.
        output_dir: one JSON file per finished cell.
        steps: optimizer steps per cell.
        seeds: of initialization and sampling.
        forms: some of FORMS.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    for seed in seeds if isinstance(seeds, list | tuple) else [seeds]:
        for form in forms if isinstance(forms, list | tuple) else [forms]:
            cell = output / f"{form}_{steps}_{seed}.json"
            if not cell.exists():
                write_json(cell, run_cell(dataset_dir, form, seed, steps))
    print_table(output, steps)


def build_network(form: str) -> Rep3D:
    kind, _, start = form.partition("-")
    network = Rep3D(
        1,
        3,
        feature_size=(16, 32, 64, 128),
        hidden_size=256,
        modulation=kind if kind in ("fixed", "none") else "lrbm",
    )
    for mask in network.modules():
        if isinstance(mask, LRBM):
            channels = mask.norms[0].num_channels
            if kind == "channels":
                mask.norms = nn.ModuleList(ChannelNorm(channels) for _ in mask.norms)
            nn.init.constant_(mask.norms[-1].weight, float(start))
    return network


def run_cell(dataset_dir: str, form: str, seed: int, steps: int) -> dict:
    set_determinism(seed)
    load = [LoadImaged(KEYS), EnsureChannelFirstd(KEYS), NormalizeIntensityd("image"), SpatialPadd(KEYS, PATCH)]
    augment = [
        RandSpatialCropd(KEYS, roi_size=PATCH, random_size=False),
        RandAffined(
            KEYS, prob=0.5, rotate_range=(0.3,) * 3, scale_range=(0.1,) * 3, mode=("bilinear", "nearest"),
            padding_mode="zeros",
        ),
        RandScaleIntensityd("image", factors=0.1, prob=0.5),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    ]  # fmt: skip
    data = CacheDataset(load_datalist(dataset_dir, "training"), Compose(load + augment), progress=False)
    loader = DataLoader(data, batch_size=1, shuffle=True)
    network = build_network(form)
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    network.train()
    check_layers(network)
    start, step = time.perf_counter(), 0
    progress = tqdm(total=steps, desc=f"{form} seed {seed}", mininterval=10)
    while step < steps:
        for batch in loader:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(batch["image"])
            loss = loss_function(logits.float(), batch["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            progress.update()
            if step == steps:
                break
    seconds = time.perf_counter() - start
    return {"form": form, "seed": seed, "steps": steps, "seconds": seconds, "dice": score(network, dataset_dir)}


def score(network: nn.Module, dataset_dir: str) -> list[float]:
    """Mean Dice per label over the validation cases, each inferred whole."""
    load = Compose(
        [LoadImaged(KEYS), EnsureChannelFirstd(KEYS), NormalizeIntensityd("image"), SpatialPadd(KEYS, PATCH)]
    )
    metric = DiceMetric(include_background=False, num_classes=3)
    network.eval()
    for batch in DataLoader(CacheDataset(load_datalist(dataset_dir, "validation"), load, progress=False)):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            prediction = network(batch["image"]).argmax(1, keepdim=True)
        metric(decollate_batch(prediction), decollate_batch(batch["label"]))
    return [value.item() for value in metric.aggregate("mean_batch")]


def print_table(output: Path, steps: int) -> None:
    cells = [read_json(path) for path in sorted(output.glob(f"*_{steps}_*.json"))]
    rows = []
    for form in FORMS:
        mine = [cell for cell in cells if cell["form"] == form]
        if mine:
            anterior, posterior = (statistics.mean(cell["dice"][i] for cell in mine) for i in (0, 1))
            means = [statistics.mean(cell["dice"]) for cell in mine]
            pace = statistics.mean(cell["seconds"] / cell["steps"] for cell in mine)
            dice = [f"{value:.4f}" for value in (anterior, posterior, statistics.mean(means))]
            rows.append([form, len(mine), *dice, f"{min(means):.4f}-{max(means):.4f}", f"{pace:.2f}"])
    columns = ["seeds", "anterior", "posterior", "mean", "spread of the mean", "s a step"]
    print(markdown_table([f"generator, {steps} steps", *columns], rows))


if __name__ == "__main__":
    fire.Fire(main)
