"""A PACS of our own: Debian's Orthanc with its DICOMweb plugin, in a network that nothing else reaches."""

import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import torch
from app_helpers import Server, small_bundle
from bundle_helpers import free_port
from programs import CLONE_NEWNET

PLUGINS = Path("/usr/share/orthanc/plugins")
LIVER = 6
THRESHOLD = 0.87  # of the bundle's intensities: 186 HU
SECONDS = 180  # to wait for what happens in the background
KEPT_SECONDS = 0.2  # that the server takes a list of series for current: a tenth of what it does otherwise


def need_orthanc() -> None:
    if shutil.which("Orthanc") is None or not list(PLUGINS.glob("libOrthancDicomWeb*")):
        pytest.skip("Debian's packages orthanc and orthanc-dicomweb are not here")


@contextmanager
def own_network() -> Iterator[None]:
    """A network namespace with nothing but 127.0.0.1: Orthanc 1.10.1 listens on all addresses, whatever it is told."""
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        os.close(outside)
        pytest.skip("a network of its own for Orthanc needs Linux and the rights of root")
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert libc.setns(outside, CLONE_NEWNET) == 0
        os.close(outside)


class Orthanc:
    """Starts in a folder of its own, and stops."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.dicomweb = f"{self.url}/dicom-web"
        self._config = folder / "orthanc.json"
        self._log = folder / "orthanc.log"
        settings = {
            "StorageDirectory": str(folder / "orthanc"),
            "IndexDirectory": str(folder / "orthanc"),
            "HttpPort": int(self.url.rpartition(":")[2]),
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "Plugins": [str(PLUGINS)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        self._config.write_text(json.dumps(settings), encoding="utf-8")

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["Orthanc", str(self._config)], stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while True:
            try:
                requests.get(f"{self.dicomweb}/studies", timeout=5).raise_for_status()
                return
            except requests.ConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Orthanc did not start:\n{self._log.read_text()}") from None
                time.sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def store(self, files: list[Path]) -> None:
        for file in files:
            requests.post(f"{self.url}/instances", file.read_bytes(), timeout=30).raise_for_status()

    def segmentations(self, **search: str) -> list[str]:
        """SOPInstanceUIDs."""
        found = requests.get(f"{self.dicomweb}/instances", {"Modality": "SEG", **search}, timeout=30).json()
        return [item["00080018"]["Value"][0] for item in found]

    def __enter__(self) -> "Orthanc":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def threshold_bundle(folder):
    """amos_ct with a network that calls bright voxels liver."""
    bundle = small_bundle(folder, "amos_ct", weights=False)
    for name in ("train", "inference"):
        path = bundle / f"configs/{name}.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["network_def"] = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 16, "kernel_size": 1}
        path.write_text(json.dumps(config), encoding="utf-8")
    weight, bias = torch.zeros(16, 1, 1, 1, 1), torch.full((16,), -100.0)
    weight[LIVER], bias[LIVER], bias[0] = 100.0, -THRESHOLD * 100, 0.0
    (bundle / "models").mkdir()
    torch.save({"weight": weight, "bias": bias}, bundle / "models/model.pt")
    return bundle


@contextmanager
def pacs_server(folder: Path, **conf: str) -> Iterator[SimpleNamespace]:
    """An Orthanc, and a server over it with `threshold_bundle`."""
    need_orthanc()
    bundle = threshold_bundle(folder / "bundles")
    with own_network(), Orthanc(folder) as orthanc:
        kept = folder / "kept"
        conf = {
            "bundles": str(bundle.parent),
            "models": "amos_ct",
            "scoring": "false",
            "pacs_folder": str(kept),
            **conf,
        }
        constants = {"monailabel_app.dicomweb.client.KEPT_SECONDS": KEPT_SECONDS}
        with Server(folder, studies=orthanc.dicomweb, constants=constants, **conf) as server:
            yield SimpleNamespace(orthanc=orthanc, server=server, folder=folder, kept=kept)


def objects(place):
    return place.server.request("GET", "/datastore/?output=all").json()["objects"]


def until(condition):
    deadline = time.monotonic() + SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result
