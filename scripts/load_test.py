"""Let many clients work on a MONAI Label server at once, and check that no label gets lost or mixed up.

    python -m monailabel_app start_server --studies SCANS &
    python scripts/load_test.py --model msd_hippocampus --clients 8 --minutes 5 --pid $!

Submits labels to the server's images: take studies that nobody needs. Prints latencies, errors and the server's memory.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import requests
from tqdm import tqdm

from rep3d.console.commands import run_command
from rep3d.console.tables import markdown_table

TIMEOUT = 300  # seconds for one answer
GZIP = b"\x1f\x8b"
BUSY = 503  # what the server answers while too many wait
SECONDS_BETWEEN_SAMPLES = 1.0


class Client(threading.Thread):
    """Segments, fetches and submits until told to stop; remembers what was acknowledged."""

    def __init__(self, number: int, url: str, model: str, images: dict[str, nib.Nifti1Image], stop: threading.Event):
        super().__init__()
        self.number, self.url, self.model, self.images, self.stopping = number, url, model, images, stop
        self.session = requests.Session()
        self.random = random.Random(number)
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.busy: dict[str, int] = defaultdict(int)  # answers that ask to come again
        self.failures: list[str] = []
        self.labels = 0  # that were sent
        self.acknowledged: dict[str, tuple[str, np.ndarray]] = {}  # by our own id: image, voxels

    def run(self) -> None:
        while not self.stopping.is_set():
            image = self.random.choice(sorted(self.images))
            self.request("infer", "POST", f"/infer/{self.model}?image={image}&output=json")
            self.request("fetch", "GET", f"/datastore/image?image={image}")
            self.request("info", "GET", "/info/")
            self.submit(image)

    def submit(self, image: str) -> None:
        self.labels += 1
        own_id = f"client{self.number}-{self.labels}"
        scan = self.images[image]
        voxels = np.zeros(scan.shape, dtype=np.uint8)
        voxels.flat[self.random.sample(range(voxels.size), 100)] = 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "label.nii.gz"
            nib.save(nib.Nifti1Image(voxels, scan.affine), path)
            files = {"label": (path.name, path.read_bytes())}
        data = {"params": json.dumps({"client_id": own_id})}
        if self.request("submit", "PUT", f"/datastore/label?image={image}", files=files, data=data):
            self.acknowledged[own_id] = image, voxels

    def request(self, what: str, method: str, path: str, **arguments) -> bool:
        start = time.perf_counter()
        try:
            answer = self.session.request(method, self.url + path, timeout=TIMEOUT, **arguments)
        except requests.RequestException as error:
            self.failures.append(f"{what}: {error}")
            return False
        if answer.status_code == 200:
            self.seconds[what].append(time.perf_counter() - start)
        elif answer.status_code == BUSY:
            self.busy[what] += 1
        else:
            self.failures.append(f"{what}: {answer.status_code} {answer.text[:200]}")
        return answer.status_code == 200


def main(
    model: str, url: str = "http://127.0.0.1:8000", clients: int = 8, minutes: float = 5, pid: int | None = None
) -> None:
    """Run the clients, then compare every acknowledged label with what the server kept.

    Args:
        model: that segments.
        url: of the server.
        clients: that work at once.
        minutes: how long.
        pid: of the server, to watch its memory.
    """
    names = sorted(requests.get(f"{url}/datastore/?output=all", timeout=TIMEOUT).json()["objects"])
    images = {name: _volume(f"{url}/datastore/image?image={name}") for name in names}
    stop = threading.Event()
    workers = [Client(number, url, model, images, stop) for number in range(clients)]
    memory = []
    for worker in workers:
        worker.start()
    for _ in tqdm(range(int(minutes * 60 / SECONDS_BETWEEN_SAMPLES)), desc="Load", unit="s"):
        time.sleep(SECONDS_BETWEEN_SAMPLES)
        memory += [psutil.Process(pid).memory_info().rss / 1e6] if pid else []
    stop.set()
    for worker in workers:
        worker.join()

    rows = []
    for what in sorted({what for worker in workers for what in (*worker.seconds, *worker.busy)}):
        seconds = sorted(value for worker in workers for value in worker.seconds[what])
        figures = _figures(seconds) if seconds else ["-"] * 3
        rows.append([what, len(seconds), sum(worker.busy[what] for worker in workers), *figures])
    print(markdown_table(["request", "answered", "busy", "median s", "95 % s", "largest s"], rows))
    if memory:
        print(
            f"memory of the server: {memory[0]:.0f} MB at the start, {max(memory):.0f} at most, {memory[-1]:.0f} last"
        )
    failures = [failure for worker in workers for failure in worker.failures]
    acknowledged = {own: label for worker in workers for own, label in worker.acknowledged.items()}
    wrong = _compare(url, names, acknowledged)
    print(f"{len(acknowledged)} labels acknowledged, {len(wrong)} lost or changed, {len(failures)} requests failed")
    if wrong or failures:
        raise SystemExit("\n".join([*wrong, *failures][:20]))


def _figures(seconds: list[float]) -> list[str]:
    tail = seconds[int(0.95 * (len(seconds) - 1))]
    return [f"{figure:.3f}" for figure in (statistics.median(seconds), tail, seconds[-1])]


def _compare(url: str, names: list[str], acknowledged: dict[str, tuple[str, np.ndarray]]) -> list[str]:
    """The acknowledged labels that the server did not keep as they were sent."""
    kept = {}
    for name in names:
        for info in requests.get(f"{url}/datastore/label/versions?label={name}", timeout=TIMEOUT).json():
            kept[info.get("client_id")] = name, info["version"]
    wrong = []
    for own_id, (image, voxels) in tqdm(acknowledged.items(), desc="Comparing", unit="label"):
        name, version = kept.get(own_id, ("", 0))
        address = f"{url}/datastore/label?label={image}&tag=final&version={version}"
        if name != image or not np.array_equal(np.asarray(_volume(address).dataobj), voxels):
            wrong.append(f"{own_id}: {image} was not kept as it was sent")
    return wrong


def _volume(address: str) -> nib.Nifti1Image:
    answer = requests.get(address, timeout=TIMEOUT)
    answer.raise_for_status()
    content = answer.content
    return nib.Nifti1Image.from_bytes(gzip.decompress(content) if content.startswith(GZIP) else content)


if __name__ == "__main__":
    run_command(main)
