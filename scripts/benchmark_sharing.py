"""Time training and inference alone and beside busy processes, by how OpenMP's threads wait.

    python scripts/benchmark_sharing.py --threads 2 --output_dir runs/benchmark_sharing

Takes the network of the hippocampus bundle: a training step on two of its patches, also with one thread fewer, as the
label app trains, and the label map of a scan. As it comes, OpenMP lets threads that wait for others spin, which takes
the core from whoever could use it; `rep3d.training.cpu.SHARED_CORES` lets them spin a little and then sleep, and
`OMP_WAIT_POLICY=PASSIVE` sleep at once. The runtime reads that when it is loaded, so every figure has a process of its
own. All cells of the table take turns, round by round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from tqdm import tqdm

from rep3d import reparameterize
from rep3d.console.commands import run_command
from rep3d.files import write_csv
from rep3d.inferers import AutocastInferer
from rep3d.training.cpu import SHARED_CORES, keep_freed_memory
from rep3d.training.parameters import parameter_groups

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_operator import device_name, markdown

BUNDLE = Path(__file__).resolve().parents[1] / "bundles/msd_hippocampus"
SCAN = (36, 52, 36)  # voxels: about the mean of the set
POLICIES: dict[str, dict[str, str]] = {
    "as it comes": {},
    "a little": SHARED_CORES,
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BUSY = (0, 1, 2)
WARM_UP = 3
PATIENCE = 20  # seconds for one figure, however few calls that are


def main(threads: int = 2, calls: int = 20, rounds: int = 3, output_dir: str = "runs/benchmark_sharing") -> None:
    """Print the table and what it was measured on.

    Args:
        threads: of the measured process.
        calls: of one figure, fewer where they take long; their median counts.
        rounds: figures of a cell; their median is shown.
        output_dir: for the table as CSV.
    """
    settings = [(work, count, policy) for work, count in works(threads) for policy in POLICIES]
    figures: dict[tuple, list[float]] = {(*setting, busy): [] for setting in settings for busy in BUSY}
    for _ in range(rounds):
        for work, count, policy, busy in tqdm(figures):
            with busy_processes(busy):
                figures[work, count, policy, busy].append(measured(work, POLICIES[policy], count, calls))
    rows = []
    for setting in settings:
        alone, *beside = (statistics.median(figures[(*setting, busy)]) for busy in BUSY)
        work, count, policy = setting
        row = {"work": work, "threads": str(count), "waiting threads spin": policy, "alone s": f"{alone:.3f}"}
        for busy, value in zip(BUSY[1:], beside, strict=True):
            row[f"beside {busy} busy s"] = f"{value:.3f}"
            row[f"{busy} busy / alone"] = f"{value / alone:.2f}"
        rows.append(row)
    print(f"{device_name('cpu')}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print(markdown(rows))
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "sharing.csv", rows)


def works(threads: int) -> list[tuple[str, int]]:
    """What is measured, with how many threads."""
    return [("training step", threads), ("training step", max(1, threads - 1)), ("inference", threads)]


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measured(work: str, policy: dict[str, str], threads: int, calls: int) -> float:
    """Median seconds of a call, in a process with that policy."""
    kept = os.environ.copy()
    os.environ.update({"OMP_NUM_THREADS": str(threads), **policy})
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            return pool.submit(median_seconds, work, calls).result()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def median_seconds(work: str, calls: int) -> float:
    keep_freed_memory()
    call = WORK[work]()
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    while len(times) < calls and sum(times) < PATIENCE:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def training_step() -> Callable[[], object]:
    parser = bundle_config()
    network = parser.get_parsed_content("network_def")
    optimizer = torch.optim.AdamW(parameter_groups(network), lr=1e-3, fused=True)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    image = torch.randn(2, 1, *parser["patch_size"])
    label = torch.randint(3, image.shape).float()
    inferer = AutocastInferer(SimpleInferer())

    def step() -> None:
        loss_function(inferer(image, network), label).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference() -> Callable[[], object]:
    parser = bundle_config()
    network = reparameterize(parser.get_parsed_content("network_def")).eval()
    inferer, image = parser.get_parsed_content("sliding_window"), torch.randn(1, 1, *SCAN)

    def call() -> None:
        with torch.inference_mode():
            inferer(image, network)

    return call


def bundle_config() -> ConfigParser:
    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/train.json"))
    return parser


WORK = {"training step": training_step, "inference": inference}

if __name__ == "__main__":
    run_command(main)
