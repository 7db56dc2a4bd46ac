"""Inference with a bundle's own `inference.json`: its transforms, its windows, its way back to the scan's grid."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.studies.colors import anatomy_colors
from monailabel_app.studies.volumes import read_grid, read_voxels
from rep3d.console.errors import root_cause
from rep3d.io.geometry import Geometry
from rep3d.io.volumes import write_label_map
from rep3d.training.checkpoints import load_deployed

logger = logging.getLogger(__name__)
# It warns at every image that an optional decoder of NVIDIA is not there.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

QUIET = {"sliding_window#inferer#progress": False}
# What a preset changes in the bundle's config. The bundle's own overlap is what its scores were measured with.
PRESETS: dict[str, dict[str, Any]] = {"accurate": {}, "fast": {"sliding_window#inferer#overlap": 0.25}}
# What to try, one after the other, while the GPU's memory does not suffice: a note and config changes.
STITCH_ON_CPU = {
    "sw_batch_size": 1,
    "sliding_window#inferer#device": "cpu",
    "sliding_window#inferer#sw_device": "@device",
}
SMALLER_WINDOWS = {"sliding_window#inferer#roi_size": "$[side * 2 // 3 for side in @patch_size]"}
FALLBACKS: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("the GPU ran out of memory: took one window at a time", {"sw_batch_size": 1}),
    ("the GPU ran out of memory: put the windows together in main memory", STITCH_ON_CPU),
    (
        "the GPU ran out of memory: took smaller windows than the network was trained with",
        {**STITCH_ON_CPU, **SMALLER_WINDOWS},
    ),
    ("the GPU ran out of memory: used the CPU", {"device": "cpu"}),
]
WARM_UP_SHAPE = (48, 48, 48)
WARM_UP_SECONDS = 5  # then no more: a slow network's first call takes hardly longer than the others
MAX_GRID_BYTES = 2**29  # of a scan on a bundle's grid, 512 voxels a side: a small upload must not take hours
MAX_WAITING = 8  # requests that wait for their turn; more are told to come again

_turn = threading.Lock()  # networks take all cores or the whole GPU: one at a time
_waiting = threading.BoundedSemaphore(MAX_WAITING + 1)


@dataclass(frozen=True)
class Segmentation:
    """A label map (D, H, W) on the scan's own grid."""

    voxels: np.ndarray
    grid: Geometry
    seconds: dict[str, float]
    note: str  # what had to be done differently and what is odd about the scan, or empty


class BundleInference(InferTask):
    """Serves one bundle.

    Args:
        bundle: what to serve; it is not valid as long as it has no weights.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(InferType.SEGMENTATION, bundle.labels, 3, bundle.description)
        self.bundle = bundle
        self._networks: dict[str, tuple[str, torch.nn.Module]] = {}  # by device: stamp of the weights, network

    def is_valid(self) -> bool:
        return self.bundle.weights.is_file()

    def config(self) -> dict[str, Any]:
        return {"device": device_list(), "preset": list(PRESETS)}

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.bundle.version}

    def get_path(self, validate: bool = True) -> str | None:
        return str(self.bundle.weights) if self.is_valid() or not validate else None

    def warm_up(self) -> None:
        """Segment noise, and as many windows at once as requests may, so that the first request finds all ready."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "noise.nii.gz"
            noise = np.random.default_rng(0).normal(100, 50, WARM_UP_SHAPE).astype(np.float32)
            nib.save(nib.Nifti1Image(noise, np.eye(4)), path)
            self.segment(path)
        parser = self.parser(changes={"sliding_window#inferer#overlap": 0})
        inferer, (*side, width) = parser.get_parsed_content("inferer"), parser["patch_size"]
        for count in range(parser["sw_batch_size"], 0, -1):
            if time.monotonic() - start > WARM_UP_SECONDS:
                break
            try:
                windows = torch.randn(1, parser["in_channels"], *side, width * count, device=parser["device"])
                with self.turn(), torch.inference_mode():
                    inferer(windows, self.network(parser))
            except torch.cuda.OutOfMemoryError:
                self.free_memory()  # requests take fewer windows then, too

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """As MONAI Label calls it: `segment_to_file` of `request["image"]`, a path that the server chose."""
        path, info = self.segment_to_file(Path(request["image"]), InferenceParameters.model_validate(dict(request)))
        return str(path), info

    def segment_to_file(self, image: Path, options: InferenceParameters) -> tuple[Path, dict[str, Any]]:
        """Segment an image file, and write the result to a temporary file.

        Returns:
            The file's path, which the caller deletes, and what clients read: label_names, latencies, note.

        Raises:
            RequestError: an image that cannot be segmented.
        """
        result = self.segment(image, device=options.device, preset=options.preset)
        start = time.perf_counter()
        with tempfile.NamedTemporaryFile(prefix="rep3d_", suffix=options.result_extension, delete=False) as file:
            path = Path(file.name)
        write_label_map(
            result.voxels,
            result.grid,
            path,
            labels=self.bundle.labels,
            colors=anatomy_colors(self.bundle.labels),
            dtype=options.result_dtype,
            compress=options.result_compress,
        )
        seconds = {**result.seconds, "write": time.perf_counter() - start}
        seconds["total"] = sum(seconds.values())
        return path, {
            "label_names": self.bundle.labels,
            "latencies": {name: round(value, 2) for name, value in seconds.items()},
            "centroids": {},
            "note": result.note,
        }

    def segment(self, image: Path, *, device: str = "", preset: str = "accurate") -> Segmentation:
        """The label map of an image file.

        Args:
            device: a name of `config()["device"]`, or empty for the first of them.
            preset: a key of PRESETS.

        Raises:
            RequestError: no weights, an unknown device, an unreadable image, or too many requests at once.
        """
        if not self.is_valid():
            raise RequestError(404, f"model {self.bundle.name!r} has no weights yet: train it first")
        if device and device not in self.config()["device"]:
            raise RequestError(400, f"params['device']: {device!r}, expected one of {self.config()['device']}")
        if not _waiting.acquire(blocking=False):
            raise RequestError(503, f"{MAX_WAITING} requests are waiting already, try again later")
        try:
            with _turn:
                return self._segment(image, device, PRESETS[preset])
        finally:
            _waiting.release()

    def turn(self) -> AbstractContextManager:
        """Hold it while a network computes: one at a time, of all bundles."""
        return _turn

    def parser(self, device: str = "", changes: Mapping[str, Any] | None = None) -> ConfigParser:
        """The bundle's inference config on a device of `config()`, with changes."""
        parser = ConfigParser()
        parser.read_config(str(self.bundle.config("inference")))
        told = {
            "bundle_root": str(self.bundle.root),
            "device": name_to_device(device),
            "max_grid_bytes": MAX_GRID_BYTES,
            **QUIET,
            **(changes or {}),
        }
        parser.update(told)
        return parser

    def prepare(self, parser: ConfigParser, image: Path) -> dict[str, Any]:
        """The image after the bundle's preprocessing, under "image".

        Raises:
            RequestError: it cannot be read or prepared.
        """
        grid = read_grid(image)
        with tempfile.TemporaryDirectory() as folder:
            file = image
            if image.name.endswith(".nrrd"):  # read as it was checked, not by another reader's rules
                file = Path(folder) / "image.nii.gz"
                nib.save(nib.Nifti1Image(read_voxels(image).astype(np.float32), grid.affine), file)
            try:
                return parser.get_parsed_content("preprocessing")({"image": str(file)})
            except Exception as error:
                reason = str(root_cause(error)).replace(str(file), "the image")
                raise RequestError(400, f"the image cannot be prepared: {reason}") from error

    def network(self, parser: ConfigParser) -> torch.nn.Module:
        """The deployed network on the parser's device; read again when the weights' file has changed."""
        device = str(parser["device"])
        stamp = self.stamp()
        known = self._networks.get(device)
        if known is None or known[0] != stamp:
            network = load_deployed(parser.get_parsed_content("network_def"), self.bundle.weights)
            known = (stamp, network.to(device))
            self._networks[device] = known
        return known[1]

    def stamp(self) -> str:
        """Another text for other weights."""
        stat = self.bundle.weights.stat()
        return f"{stat.st_mtime_ns}-{stat.st_size}"

    def free_memory(self) -> None:
        """Let go of the networks, which the next request reads again."""
        self._networks.clear()
        torch.cuda.empty_cache()

    def _segment(self, image: Path, device: str, preset: Mapping[str, Any]) -> Segmentation:
        for note, changes in FALLBACKS:
            try:
                return self._run(self.parser(device, {**preset, **changes}), image, note)
            except torch.cuda.OutOfMemoryError:
                logger.warning("%s: out of GPU memory (%s)", self.bundle.name, note or "as configured")
                self.free_memory()
        raise AssertionError("the CPU raises no CUDA error")

    def _run(self, parser: ConfigParser, image: Path, note: str) -> Segmentation:
        start = time.perf_counter()
        data = self.prepare(parser, image)
        prepared = time.perf_counter()
        network = self.network(parser)
        with torch.inference_mode():
            stitching_device = parser.get("sliding_window#inferer#device", parser["device"])
            inputs = data["image"].unsqueeze(0).to(stitching_device)
            data["pred"] = parser.get_parsed_content("inferer")(inputs, network)[0].cpu()
        inferred = time.perf_counter()
        for transform in (parser.get_parsed_content("to_native_grid"), *parser.get_parsed_content("refinement")):
            data = transform(data)
        pred = data["pred"]
        seconds = {
            "pre": prepared - start,
            "infer": inferred - prepared,
            "post": time.perf_counter() - inferred,
        }
        notes = "; ".join(filter(None, (note, data["image"].meta.get("note"))))
        return Segmentation(pred[0].as_tensor().numpy(), read_grid(image), seconds, notes)


def prepare_models(models: Iterable[BundleInference], *, warm_up: bool) -> None:
    """Say which have no weights yet, and warm the others up where that is wanted."""
    for model in models:
        if not model.is_valid():
            bundle = model.bundle
            logger.warning("%s has no weights (%s): train it, or put them there", bundle.name, bundle.weights)
        elif warm_up:
            logger.info("warming up %s", model.bundle.name)
            model.warm_up()
