"""Time clicks through nnInteractive's door, from the request to the mask in the client.

    python -m monailabel_app start_server --studies SCANS &
    python scripts/benchmark_interactive.py --image abdomen.nii.gz --shape 512,512,300 --pid $!

Prints a table for the docs. Clicks fall round one place of the scan, so the masks mean nothing: only times do. Needs
nnInteractive's client (extra "test") and a quiet machine.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession as Client

from rep3d.console.commands import run_command
from rep3d.console.tables import markdown_table
from rep3d.shipped import find_weights
from rep3d.training.checkpoints import load_deployed

BUNDLE = str(Path(__file__).resolve().parents[1] / "bundles/interactive")
REACH = 20.0  # millimetres from the first click to the others, at most
BEAT = 0.1  # seconds between looks whether the server answers others
FORWARDS, SLACK = 3, 0.25  # a click may take the time of so many forward passes, and so many seconds more
MEGABYTE = 1e6


def main(
    image: str,
    shape: tuple[int, int, int] | None = None,
    clicks: int = 20,
    url: str = "http://127.0.0.1:8000/nninteractive",
    api_key: str | None = None,
    bundle: str = BUNDLE,
    pid: int | None = None,
    seed: int = 0,
) -> None:
    """Click, and print how long everything took.

    Args:
        image: NIfTI file of a scan.
        shape: voxels along its axes to which it is resampled before; none: as it is.
        clicks: how many, the first one included.
        url: of nnInteractive's door.
        api_key: of a server that wants one.
        bundle: whose network the server runs, to time a forward pass in this process; empty: not.
        pid: of the server, to watch its memory.
        seed: of the clicks.
    """
    if clicks < 2:
        raise ValueError(f"clicks is {clicks}, expected 2 or more")
    voxels, spacing = _read(image, shape)
    server = psutil.Process(pid) if pid else None
    memory = [_megabytes(server)]
    client = Client(url, api_key=api_key, read_timeout=600)
    with client, _looks(client) as looks:
        upload = _timed(lambda: client.set_image(voxels[None], {"spacing": spacing}))
        client.set_target_buffer(np.zeros(voxels.shape, np.uint8))
        memory.append(_megabytes(server))
        seconds = []
        for voxel, positive in _clicks(client, spacing, clicks, np.random.default_rng(seed)):
            seconds.append(_timed(lambda: client.add_point_interaction(voxel, positive)))  # noqa: B023, called here
            memory.append(_megabytes(server))
        undo = [_timed(client.undo) for _ in range(clicks)]
    rows = [
        ("upload and preparation", f"{upload:.2f}", ""),
        ("first click", f"{seconds[0]:.2f}", ""),
        (f"{clicks - 1} further clicks", f"{statistics.median(seconds[1:]):.2f}", f"{_tail(seconds[1:]):.2f}"),
        (f"{clicks} undos", f"{statistics.median(undo):.3f}", f"{_tail(undo):.3f}"),
        ("`/healthz` meanwhile", f"{statistics.median(looks):.3f}", f"{_tail(looks):.3f}"),
    ]
    print(f"{'x'.join(map(str, voxels.shape))} voxels of {', '.join(f'{step:.3g}' for step in spacing)} mm\n")
    print(markdown_table(("", "median s", "95 % s"), rows))
    if bundle:
        forward = _forward_seconds(Path(bundle))
        print(f"\na forward pass: {forward:.3f} s; a click may take {FORWARDS * forward + SLACK:.2f} s")
    if server is not None:
        before, with_scan, *_ = memory
        print(f"\nmemory of the server: {before:.0f} MB, {with_scan:.0f} with the scan, {max(memory):.0f} at most")


def _read(image: str, shape: tuple[int, int, int] | None) -> tuple[np.ndarray, list[float]]:
    """Slices first, as 3D Slicer sends a scan, in int16; and the spacing likewise."""
    volume = nib.load(image)
    voxels = torch.from_numpy(np.asarray(volume.dataobj, np.float32))
    spacing = np.array(volume.header.get_zooms()[:3], float)
    if shape is not None:
        spacing *= np.array(voxels.shape) / shape
        voxels = F.interpolate(voxels[None, None], tuple(shape), mode="trilinear")[0, 0]
    return np.ascontiguousarray(voxels.round().short().numpy().T), spacing[::-1].tolist()


def _clicks(
    client: Client, spacing: list[float], count: int, random: np.random.Generator
) -> Iterator[tuple[list[int], bool]]:
    """The middle of the scan; then by turns voxels near it that are missing, and voxels that are too many."""
    mask = client.target_buffer
    middle = np.array(mask.shape) // 2
    reach = np.minimum(np.ceil(REACH / np.array(spacing)).astype(int), middle)
    yield middle.tolist(), True
    near = tuple(slice(centre - side, centre + side + 1) for centre, side in zip(middle, reach, strict=True))
    for number in range(1, count):
        inside = mask[near] > 0
        positive = not inside.any() or (number % 2 == 0 and not inside.all())
        yield (random.choice(np.argwhere(inside != positive)) + middle - reach).tolist(), positive


@contextmanager
def _looks(client: Client) -> Iterator[list[float]]:
    """How long the server takes to answer that it is there, again and again until the context ends."""
    seconds: list[float] = []
    end = threading.Event()

    def look() -> None:
        while not end.wait(BEAT):
            start = time.perf_counter()
            if not client.ping(timeout=60):
                raise ConnectionError("the server does not answer")
            seconds.append(time.perf_counter() - start)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        end.set()
        thread.join()


def _forward_seconds(bundle: Path, repeats: int = 5) -> float:
    """The median of forward passes of a bundle's network on one working grid."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs/inference.json"))
    network = load_deployed(parser.get_parsed_content("network_def"), find_weights(bundle))
    grid = torch.randn(1, parser.get_parsed_content("in_channels"), *parser.get_parsed_content("patch_size"))
    inferer = parser.get_parsed_content("inferer")
    with torch.inference_mode():
        inferer(grid, network)
        return statistics.median(_timed(lambda: inferer(grid, network)) for _ in range(repeats))


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _tail(seconds: list[float]) -> float:
    """What 95 of a hundred stay below."""
    return sorted(seconds)[int(0.95 * (len(seconds) - 1))]


def _megabytes(process: psutil.Process | None) -> float:
    return process.memory_info().rss / MEGABYTE if process else 0.0


if __name__ == "__main__":
    run_command(main)
