"""Inference with a bundle's own `inference.json`: its transforms, its windows, its way back to the scan's grid."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.models import contract
from monailabel_app.models.inference_config import InferenceConfig
from monailabel_app.models.networks import Networks
from monailabel_app.models.out_of_memory import TO_SEGMENT, Step, with_less_memory
from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.models.prepared import PreparedImage, PreparedImages
from monailabel_app.models.turn import Priority, TakeTurn, Turn
from monailabel_app.studies.volumes import read_grid, read_voxels
from monailabel_app.temporary import temporary_file
from rep3d.console.errors import root_cause
from rep3d.io.geometry import Geometry
from rep3d.io.volumes import write_label_map
from rep3d.networks.input_sizes import divisor_of
from rep3d.shipped import settings_beside

Network = Callable[[torch.Tensor], torch.Tensor]
Data = dict[str, Any]

# It warns at every image that an optional decoder of NVIDIA is not there.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

# What a preset changes in the bundle's config. The bundle's own overlap is what its scores were measured with.
PRESETS: dict[str, dict[str, Any]] = {"fast": {}, "accurate": {contract.OVERLAP: 0.5}}

ATTEMPTS = 3  # at an image, where other weights come to serve meanwhile


class OtherWeights(RequestError):
    """Other weights have come to serve meanwhile, which may have other settings."""

    def __init__(self, model: str) -> None:
        super().__init__(503, f"other weights of model {model!r} have come to serve meanwhile: try again")


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
        turn: which all bundles of a server share; None: one of its own.
        images: likewise.
    """

    def __init__(self, bundle: Bundle, turn: Turn | None = None, images: PreparedImages | None = None) -> None:
        super().__init__(InferType.SEGMENTATION, bundle.labels, 3, bundle.description)
        self.bundle = bundle
        self.networks = Networks(bundle)
        self.turn = turn or Turn()
        self._images = images or PreparedImages()

    def is_valid(self) -> bool:
        return self.bundle.weights.is_file()

    def config(self) -> dict[str, Any]:
        return {"device": device_list(), "preset": list(PRESETS)}

    def info(self) -> dict[str, Any]:
        return {**super().info(), "version": self.bundle.version}

    def get_path(self, validate: bool = True) -> str | None:
        return str(self.bundle.weights) if self.is_valid() or not validate else None

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """As MONAI Label calls it: `segment_to_file` of `request["image"]`, a path that the server chose.

        Raises:
            ValidationError: pydantic's, a parameter of the wrong type, range or choice.
        """
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
        path = write_result(result.voxels, result.grid, self.bundle.labels, options)
        seconds = {**result.seconds, "write": time.perf_counter() - start}
        seconds["total"] = sum(seconds.values())
        return path, {
            "label_names": self.bundle.labels,
            "latencies": {name: round(value, 2) for name, value in seconds.items()},
            "centroids": {},
            "note": result.note,
        }

    def segment(
        self,
        image: Path,
        *,
        device: str = "",
        preset: str = "fast",
        priority: Priority = Priority.SEGMENTATION,
    ) -> Segmentation:
        """The label map of an image file.

        Args:
            device: a name of `config()["device"]`, or empty for the first of them.
            preset: a key of PRESETS.
            priority: whom to let go first. Only users are told to come again where too many wait.

        Raises:
            RequestError: no weights, an unknown device, an unreadable image, or too many requests at once; or
                OtherWeights, again and again.
        """
        if not self.is_valid():
            raise RequestError(404, f"model {self.bundle.name!r} has no weights yet: train it first")
        if device and device not in self.config()["device"]:
            raise RequestError(400, f"params['device']: {device!r}, expected one of {self.config()['device']}")
        with self.turn.admit() if priority <= Priority.SEGMENTATION else nullcontext():
            return self._segment(image, device, PRESETS[preset], priority)

    def configure(self, device: str = "", changes: Mapping[str, Any] | None = None) -> InferenceConfig:
        """The bundle's inference config on a device of `config()`, with changes."""
        return InferenceConfig(self.bundle, device, changes)

    def prepare(self, image: Path, priority: Priority) -> PreparedImage:
        """An image after the bundle's preprocessing.

        Raises:
            RequestError: it cannot be read or prepared; or OtherWeights.
        """
        stamp = self.networks.stamp()

        def prepare() -> PreparedImage:
            with self._serving(stamp):
                return _prepare(image, self.configure().preprocessing())

        configs = [self.bundle.config("inference"), settings_beside(self.bundle.weights)]
        return self._images.get(image, configs, prepare, priority)

    def _segment(self, image: Path, device: str, preset: Mapping[str, Any], priority: Priority) -> Segmentation:
        for _ in range(ATTEMPTS - 1):
            with suppress(OtherWeights):
                return self._segment_once(image, device, preset, priority)
        return self._segment_once(image, device, preset, priority)

    def _segment_once(self, image: Path, device: str, preset: Mapping[str, Any], priority: Priority) -> Segmentation:
        start, stamp = time.perf_counter(), self.networks.stamp()
        prepared, postprocessing = self.prepare(image, priority), self.configure().postprocessing()
        prepared_at = time.perf_counter()
        label_map, memory_note = self._label_map(prepared.data["image"], device, preset, priority, stamp)
        inferred_at = time.perf_counter()
        data = {**prepared.data, "pred": label_map}
        for transform in postprocessing:
            data = transform(data)
        seconds = {
            "pre": prepared_at - start,
            "infer": inferred_at - prepared_at,
            "post": time.perf_counter() - inferred_at,
        }
        notes = "; ".join(filter(None, (memory_note, data["image"].meta.get("note"))))
        return Segmentation(data["pred"][0].as_tensor().numpy(), prepared.grid, seconds, notes)

    def _label_map(
        self, image: torch.Tensor, device: str, preset: Mapping[str, Any], priority: Priority, stamp: str
    ) -> tuple[torch.Tensor, str]:
        """Of an image that was prepared for weights, on its own grid; and what had to be done differently."""

        def infer(step: Step) -> tuple[torch.Tensor, str]:
            with self._serving(stamp):
                config = self.configure(device, {**preset, **step.changes})
                network = InTurns(self.networks.on(config), my_turn)
            return config.label_map(image, network), f"the GPU ran out of memory: {step.note}" if step.note else ""

        with self.turn.line(priority) as my_turn:
            return with_less_memory(TO_SEGMENT, infer, self.networks.free_memory)

    @contextmanager
    def _serving(self, stamp: str) -> Iterator[None]:
        """Raise OtherWeights, whatever else is raised, where the weights of a stamp do not serve at the end."""
        try:
            yield
        finally:
            if self.networks.stamp() != stamp:
                raise OtherWeights(self.bundle.name)


class InTurns:
    """A network that waits at every call for a turn, see `Turn.line`."""

    def __init__(self, network: Network, my_turn: TakeTurn) -> None:
        self.network = network
        self.my_turn = my_turn
        self.divisor = divisor_of(network)  # of the windows' edges

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        with self.my_turn():
            result = self.network(windows)
            if result.is_cuda:
                torch.cuda.synchronize(result.device)  # the GPU still computes
            return result


def serve_bundles(bundles: Mapping[str, Bundle], turn: Turn | None = None) -> dict[str, BundleInference]:
    """Inference by the bundles' names, with one turn and one store of prepared images for all.

    Args:
        turn: which others share, too.

    Raises:
        ValueError: a bundle lacks what the app needs, see `contract.check_contract`.
    """
    for bundle in bundles.values():
        contract.check_contract(bundle)
    turn, images = turn or Turn(), PreparedImages()
    return {name: BundleInference(bundle, turn, images) for name, bundle in bundles.items()}


def write_result(
    voxels: np.ndarray, grid: Geometry, labels: Mapping[str, int], options: InferenceParameters, suffix: str = ""
) -> Path:
    """A temporary file, which the caller deletes, of a label map (D, H, W).

    Args:
        suffix: of the file; empty: that of the options.
    """
    with temporary_file(suffix or options.result_extension) as path:
        write_label_map(
            voxels,
            grid,
            path,
            labels=labels,
            dtype=options.result_dtype,
            compress=options.result_compress,
        )
    return path


def _prepare(image: Path, preprocessing: Callable[[Data], Data]) -> PreparedImage:
    grid = read_grid(image)
    with tempfile.TemporaryDirectory() as folder:
        file = image
        if image.name.endswith(".nrrd"):  # read as it was checked, not by another reader's rules
            file = Path(folder) / "image.nii.gz"
            nib.save(nib.Nifti1Image(read_voxels(image).astype(np.float32), grid.affine), file)
        try:
            data = preprocessing({"image": str(file)})
        except Exception as error:
            reason = str(root_cause(error)).replace(str(file), "the image")
            raise RequestError(400, f"the image cannot be prepared: {reason}") from error
    return PreparedImage({**data, "image": data["image"].clone()}, grid)  # a crop would keep the whole scan in memory
