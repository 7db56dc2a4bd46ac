"""Time clicks at the interactive server, from the request to the mask in the client, and watch its memory.

    python scripts/benchmark_interactive.py --image abdomen_ct/image.nii.gz --label abdomen_ct/label_amos.nii.gz \
        --structure 6 --shape 512,512,300

Starts a server of its own, which ends with it. The simulated user of the evaluation clicks, first through
nnInteractive's door with that client, then through MONAI Label's. Prints tables for the docs: times are what it is for,
and masks of a scan that was resampled say nothing of the network. Needs nnInteractive's client (extra "test") and a
quiet machine.
"""

from __future__ import annotations

import json
import math
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import psutil
import requests
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from nnInteractive.inference.remote import nnInteractiveRemoteInferenceSession as Client
from requests_toolbelt import MultipartDecoder

from rep3d.console.commands import run_command
from rep3d.console.tables import markdown_table
from rep3d.interactive.users import deepest_click
from rep3d.io.volumes import read_volume
from rep3d.shipped import find_weights
from rep3d.training.checkpoints import load_deployed

BUNDLE = Path(__file__).resolve().parents[1] / "bundles/interactive"
MARGIN = 40  # voxels round the structure in which the user looks for errors
LOOKED_AT = 1_000_000  # of them, about
BEAT = 0.1  # seconds between looks at the server
START_SECONDS = 300
FORWARDS, SLACK = 3, 0.25  # a click may take the time of so many forward passes, and so many seconds more
SCANS, MORE_MEGABYTES = 3, 64  # a session may take so many times its scan in int16, and so much more
MEGABYTE = 1e6

Row = tuple[str, str, str]


class Case(NamedTuple):
    """A scan, its voxels' distances in millimetres, and the structure that the user wants, each along the same axes."""

    voxels: np.ndarray
    spacing: Sequence[float]
    truth: np.ndarray

    def turned(self) -> Case:
        """Slices first, as 3D Slicer sends it."""
        return Case(np.ascontiguousarray(self.voxels.T), self.spacing[::-1], np.ascontiguousarray(self.truth.T))


class User:
    """Clicks the deepest voxel of the largest error near the structure; of a large one looks at some voxels only."""

    def __init__(self, case: Case) -> None:
        sides = [np.flatnonzero(case.truth.any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
        self._start = np.array([max(side[0] - MARGIN, 0) for side in sides])
        stop = np.array([side[-1] + MARGIN for side in sides])
        self._step = math.ceil(np.cbrt(np.prod(stop - self._start) / LOOKED_AT))
        self._seen = tuple(slice(first, last, self._step) for first, last in zip(self._start, stop, strict=True))
        self._truth = case.truth[self._seen]
        self._spacing = np.multiply(case.spacing, self._step)

    def click(self, mask: np.ndarray) -> tuple[list[int], bool]:
        """The voxel, and whether it belongs to the structure."""
        prompt = deepest_click(self._truth, mask[self._seen] > 0, self._spacing)
        if prompt is None:
            raise ValueError("nothing is left to correct: take fewer --clicks, or another --structure")
        voxel = np.rint(np.divide(prompt.positions[0], self._spacing)).astype(int) * self._step + self._start
        return voxel.tolist(), prompt.positive


def main(
    image: str,
    label: str,
    structure: int = 1,
    shape: tuple[int, int, int] | None = None,
    clicks: int = 20,
    sessions: int = 1,
) -> None:
    """Click, and print how long everything took.

    Args:
        image: NIfTI file of a scan.
        label: NIfTI file of its label map.
        structure: id of the label that the user wants.
        shape: voxels along its axes to which it is resampled before; none: as it is.
        clicks: how many, the first one included.
        sessions: how many scans are open at a time in the end, for their memory.
    """
    if clicks < 2 or sessions < 1:
        raise ValueError(f"clicks is {clicks} and sessions {sessions}, expected 2 and 1 or more")
    case = _read(image, label, structure, shape)
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), case) as (url, process):
        with _connect(url, np.zeros((64, 64, 64), np.int16), (1, 1, 1)) as client:
            client.add_point_interaction([32, 32, 32], True)  # from now on the server is warm
        with _watched(url, process) as watched:
            rows, memory = _nninteractive(url, case.turned(), clicks, watched)
            rows += _monai_label(url, case, clicks)
            rows.append(_row("`/nninteractive/healthz` meanwhile", watched.seconds))
            many = _open(url, case, sessions - 1, watched)
    print(f"{'x'.join(map(str, case.voxels.shape))} voxels of {', '.join(f'{s:.3g}' for s in case.spacing)} mm\n")
    print(markdown_table(("", "median s", "95 % s"), rows))
    forwards = FORWARDS * _forward_seconds()
    print(f"\n{FORWARDS} forward passes: {forwards:.2f} s; a click may take {forwards + SLACK:.2f} s")
    bound = SCANS * case.voxels.size * 2 / MEGABYTE + MORE_MEGABYTES
    print(
        f"\nmemory: {watched.before:.0f} MB before, {memory:.0f} at most in the first session; may be {bound:.0f} more"
    )
    print(f"{many:.0f} MB at most with {sessions + 1} sessions, of which the one over MONAI Label's door is one")


def _read(image: str, label: str, structure: int, shape: tuple[int, int, int] | None) -> Case:
    volume = nib.load(image)
    voxels = torch.from_numpy(np.asarray(volume.dataobj, np.float32))
    truth = torch.from_numpy((np.asarray(nib.load(label).dataobj) == structure).astype(np.float32))
    spacing = np.array(volume.header.get_zooms()[:3], float)
    if truth.shape != voxels.shape or not truth.any():
        raise ValueError(f"{label}: has no voxels of the structure {structure}, or not the shape of {image}")
    if shape is not None:
        spacing *= np.array(voxels.shape) / shape
        voxels, truth = (F.interpolate(v[None, None], tuple(shape), mode="trilinear")[0, 0] for v in (voxels, truth))
    return Case(voxels.round().short().numpy(), spacing.tolist(), (truth > 0.5).numpy())


# --- the server


@contextmanager
def _server(folder: Path, case: Case) -> Iterator[tuple[str, psutil.Process]]:
    """A server with the shipped weights, whose studies are the scan: its address, and its process."""
    studies, log = folder / "studies", folder / "server.log"
    studies.mkdir()
    nib.save(nib.Nifti1Image(case.voxels, np.diag([*case.spacing, 1])), studies / "scan.nii.gz")
    with requests.Session() as session, log.open("wb") as output:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "monailabel_app", "start_server", "--studies", str(studies)]
        command += ["--port", str(port), "--conf", "bundles", str(BUNDLE.parent), "--conf", "scoring", "false"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(session, url):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")
                time.sleep(BEAT)
            yield url, psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _answers(session: requests.Session, url: str) -> bool:
    try:
        return session.get(f"{url}/nninteractive/capabilities", timeout=60).ok
    except requests.ConnectionError:
        return False


class Watched:
    """What was seen of a server.

    Attributes:
        seconds: that it took each time to answer that it is there.
        before, most: memory in megabytes.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.seconds: list[float] = []
        self.before = self.most = self._megabytes()

    def look(self, url: str) -> None:
        self.seconds.append(_timed(lambda: requests.get(f"{url}/nninteractive/healthz", timeout=60).raise_for_status()))
        self.most = max(self.most, self._megabytes())

    def _megabytes(self) -> float:
        return self._process.memory_info().rss / MEGABYTE


@contextmanager
def _watched(url: str, process: psutil.Process) -> Iterator[Watched]:
    """Looks again and again until the context ends."""
    watched, end = Watched(process), threading.Event()

    def look() -> None:
        while not end.wait(BEAT):
            watched.look(url)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        end.set()
        thread.join()


# --- the doors


def _connect(url: str, voxels: np.ndarray, spacing: Sequence[float]) -> Client:
    client = Client(f"{url}/nninteractive", read_timeout=600)
    client.set_image(voxels[None], {"spacing": list(spacing)})
    client.set_target_buffer(np.zeros(voxels.shape, np.uint8))
    return client


def _nninteractive(url: str, case: Case, clicks: int, watched: Watched) -> tuple[list[Row], float]:
    """Rows of the table, and the server's memory in megabytes at most."""
    user, seconds = User(case), []
    start = time.perf_counter()
    with _connect(url, case.voxels, case.spacing) as client:
        prepared = time.perf_counter() - start
        for _ in range(clicks):
            voxel, positive = user.click(client.target_buffer)
            seconds.append(_timed(lambda: client.add_point_interaction(voxel, positive)))  # noqa: B023, called here
        undo = [_timed(client.undo) for _ in range(clicks)]
    return [
        _row("nnInteractive's door: upload and preparation", [prepared]),
        _row("first click", seconds[:1]),
        _row(f"{clicks} clicks", seconds),
        _row(f"{clicks} undos", undo),
    ], watched.most


def _monai_label(url: str, case: Case, clicks: int) -> list[Row]:
    user, seconds, remembered = User(case), [], []
    mask = np.zeros(case.voxels.shape, np.uint8)
    lists: dict[str, list[list[int]]] = {"foreground": [], "background": []}

    def ask() -> requests.Response:
        params = {"label": "structure", "result_extension": ".nrrd", "result_dtype": "uint8", **lists}
        answer = requests.post(
            f"{url}/infer/interactive?image=scan", files={"params": (None, json.dumps(params))}, timeout=600
        )
        answer.raise_for_status()
        return answer

    for _ in range(clicks):
        voxel, positive = user.click(mask)
        lists["foreground" if positive else "background"].append(voxel)
        start = time.perf_counter()
        answer = ask()
        seconds.append(time.perf_counter() - start)
        mask = _label_map(answer)
        told = json.loads(MultipartDecoder.from_response(ask()).parts[0].content)
        remembered.append(told["latencies"]["infer"])
    return [
        _row("MONAI Label's door: first click, with preparation", seconds[:1]),
        _row(f"{clicks - 1} further clicks", seconds[1:]),
        _row("the same points again, before the reply is written", remembered),
    ]


def _label_map(answer: requests.Response) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answer.nrrd"
        path.write_bytes(MultipartDecoder.from_response(answer).parts[1].content)
        return read_volume(path)[0]


def _open(url: str, case: Case, count: int, watched: Watched) -> float:
    """So many sessions more, with a click each: the server's memory in megabytes at most."""
    turned = case.turned()
    for number in range(count):
        with _connect(url, turned.voxels + np.int16(number), turned.spacing) as client:
            client.add_point_interaction(User(turned).click(client.target_buffer)[0], True)
    return watched.most


def _forward_seconds(repeats: int = 5) -> float:
    """The median of forward passes of the bundle's network on one working grid."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/inference.json"))
    network = load_deployed(parser.get_parsed_content("network_def"), find_weights(BUNDLE))
    grid = torch.randn(1, parser.get_parsed_content("in_channels"), *parser.get_parsed_content("patch_size"))
    inferer = parser.get_parsed_content("inferer")
    with torch.inference_mode():
        inferer(grid, network)
        return statistics.median(_timed(lambda: inferer(grid, network)) for _ in range(repeats))


def _row(name: str, seconds: Sequence[float]) -> Row:
    """The median, and what 95 of a hundred stay below where there are several."""
    tail = f"{np.quantile(seconds, 0.95, method='higher'):.3f}" if len(seconds) > 1 else ""
    return name, f"{statistics.median(seconds):.3f}", tail


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    run_command(main)
