"""Time whole networks: what a large kernel, its mask and less memory cost. The tables of docs/performance.md.

    python scripts/benchmark_network.py --threads 2 --output_dir runs/benchmark_network

Prints Markdown tables and leaves them as CSV in `output_dir`:
    training: one step with the small and the large kernel;
    inference: the deployed network on one batch;
    changes: a training step with one thing done differently;
    allocator: a training step with and without `rep3d.training.keep_freed_memory`, in processes of their own;
    stitching: the label map of a large image, with a stub in place of the network.
In the first three the variants take turns in one process, which keeps freed memory, and the first is the one that the
others are compared to; each one's memory is measured in a process of its own, which does not.
"""

from __future__ import annotations

import functools
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fire.decorators import SetParseFn
from monai.losses import DiceCELoss
from tqdm import tqdm

from rep3d import Rep3D, reparameterize
from rep3d.console.commands import run_command
from rep3d.files import write_csv
from rep3d.inferers import LabelMapInferer
from rep3d.training.cpu import keep_freed_memory

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_operator import device_name, in_own_process, markdown, peak_memory, seconds

CLASSES = 16
NETWORKS: dict[str, dict[str, Any]] = {
    "full": {},
    "tiny": {"feature_size": (16, 32, 64, 128), "hidden_size": 256},
}
MONAI_INSTANCE_NORM = ("instance", {"affine": False})
SMALL: dict[str, Any] = {"kernel_size": 3, "modulation": "fixed"}
FIXED: dict[str, Any] = {"modulation": "fixed"}
LRBM: dict[str, Any] = {"modulation": "lrbm"}
TRAINING = {"k = 3, fixed": SMALL, "k = 21, fixed": FIXED, "k = 21, lrbm": LRBM}
INFERENCE = {"k = 3": SMALL, "k = 21": LRBM}
CHANGES = {
    "k = 21, lrbm": LRBM,
    "use_checkpoint": {**LRBM, "use_checkpoint": True},
    "MONAI's instance norm": {**LRBM, "norm_name": MONAI_INSTANCE_NORM},
    "channels_last_3d": {**LRBM, "channels_last": True},
    "AdamW not fused": {**LRBM, "fused": False},
}
TABLES = ("training", "inference", "changes", "allocator", "stitching")
WHOLE_BODY = (512, 512, 500)
WHOLE_BODY_CLASSES = 30


@SetParseFn(str, "output_dir")  # a folder may be called 2024_01_05
def main(
    threads: int | None = None,
    repeats: int = 3,
    sizes=(48, 96),
    batch: int = 2,
    networks=("full",),
    dtypes=("float32", "bfloat16"),
    output_dir: str = "runs/benchmark_network",
    tables=TABLES,
) -> None:
    """Print the tables and what they were measured on.

    Args:
        threads: CPU threads; None: PyTorch's choice.
        repeats: rounds per figure, after one that warms up.
        sizes: edges of the patch in voxels.
        batch: patches per step.
        networks: some of NETWORKS.
        dtypes: "float32", "bfloat16" (autocast).
        output_dir: for one CSV per table.
        tables: some of TABLES.
    """
    if threads is not None:
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that measure
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{device_name(device)}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    settings = [
        {"network": network, "size": size, "batch": batch, "dtype": dtype, "device": device}
        for network in networks
        for dtype in dtypes
        for size in sizes
    ]
    makers: dict[str, Callable[[dict], list[dict[str, str]]]] = {
        **{table: functools.partial(rows_of, table, repeats=repeats) for table in VARIANTS},
        "allocator": lambda setting: allocator_rows(setting, repeats),
        "stitching": lambda _: [in_own_process(stitching_row)],
    }
    for name in tables:
        rows = [
            row for setting in tqdm(settings[: 1 if name == "stitching" else None]) for row in makers[name](setting)
        ]
        print(f"### {name}\n\n{markdown(rows)}\n", flush=True)
        write_csv(folder / f"{name}.csv", rows)


def rows_of(table: str, setting: dict, repeats: int) -> list[dict[str, str]]:
    """In processes of their own, so that no measurement meets the memory of another."""
    variants, _ = VARIANTS[table]
    medians = in_own_process(timings, table, setting, repeats)
    first = medians[next(iter(variants))]
    rows = []
    for name in variants:
        memory = in_own_process(extra_memory, table, name, setting)
        rows.append(
            {
                **described(setting),
                "variant": name,
                "s": f"{medians[name]:.3f}",
                "ratio to the first": f"{medians[name] / first:.2f}",
                "extra memory GB": f"{memory / 1e9:.2f}",
            }
        )
    return rows


def timings(table: str, setting: dict, repeats: int) -> dict[str, float]:
    """Median seconds of each variant; they take turns."""
    keep_freed_memory()
    variants, make_call = VARIANTS[table]
    calls = {name: make_call(arguments, **setting) for name, arguments in variants.items()}
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(repeats + 1)][1:]
    return {name: statistics.median(one[name] for one in rounds) for name in variants}


def described(setting: dict) -> dict[str, str]:
    return {
        "network": setting["network"],
        "input": f"{setting['batch']}x1x{setting['size']}^3 {setting['dtype']}",
    }


def training_step(
    arguments: dict,
    network: str,
    size: int,
    batch: int,
    dtype: str,
    device: str,
) -> Callable:
    """One step with AdamW: forward, loss, backward, update."""
    options = {"channels_last": False, "fused": True, **arguments}
    channels_last, fused = (options.pop(name) for name in ("channels_last", "fused"))
    torch.manual_seed(0)
    model = Rep3D(1, CLASSES, **NETWORKS[network], **options).to(device)
    if channels_last:
        for parameter in (p for p in model.parameters() if p.ndim == 5):
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    image = torch.randn(batch, 1, *(size,) * 3, device=device)
    label = torch.randint(CLASSES, image.shape, device=device).float()

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(image)
        loss_function(logits.float(), label).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(arguments: dict, network: str, size: int, batch: int, dtype: str, device: str) -> Callable:
    """The deployed network on one batch."""
    torch.manual_seed(0)
    model = reparameterize(Rep3D(1, CLASSES, **NETWORKS[network], **arguments)).to(device).eval()
    image = torch.randn(batch, 1, *(size,) * 3, device=device)

    def call():
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            model(image)

    return call


def extra_memory(table: str, name: str, setting: dict) -> int:
    """Bytes at the peak of the second call beside what is there before the first (weights and inputs)."""
    variants, make_call = VARIANTS[table]
    call = make_call(variants[name], **setting)
    before = peak_memory(setting["device"], reset=True)
    call()
    call()
    return peak_memory(setting["device"]) - before


def allocator_rows(setting: dict, repeats: int) -> list[dict[str, str]]:
    return [
        {
            **described(setting),
            "keep_freed_memory": str(keep),
            **in_own_process(allocator_row, setting, repeats, keep),
        }
        for keep in (False, True)
    ]


def allocator_row(setting: dict, repeats: int, keep: bool) -> dict[str, str]:
    if keep:
        keep_freed_memory()
    step = training_step(FIXED, **setting)
    step()
    step()
    return {
        "s": f"{statistics.median(seconds(step) for _ in range(repeats)):.3f}",
        "peak memory of the process GB": f"{peak_memory(setting['device']) / 1e9:.2f}",
    }


def stitching_row() -> dict[str, str]:
    """Label map of an image of the whole body by sliding windows, with a stub in place of the network."""
    scales = torch.randn(WHOLE_BODY_CLASSES).view(1, -1, 1, 1, 1)
    inferer = LabelMapInferer((96, 96, 96), overlap=0.5, mode="gaussian")
    image = torch.randn(1, 1, *WHOLE_BODY)
    with torch.no_grad():
        elapsed = seconds(lambda: inferer(image, lambda windows: windows * scales))
    return {
        "image": "x".join(map(str, WHOLE_BODY)),
        "classes": str(WHOLE_BODY_CLASSES),
        "s": f"{elapsed:.0f}",
        "peak memory of the process GB": f"{peak_memory('cpu') / 1e9:.2f}",
        "float maps of all classes GB": f"{4 * WHOLE_BODY_CLASSES * image.numel() / 1e9:.2f}",
    }


VARIANTS = {
    "training": (TRAINING, training_step),
    "inference": (INFERENCE, inference),
    "changes": (CHANGES, training_step),
}

if __name__ == "__main__":
    run_command(main)
