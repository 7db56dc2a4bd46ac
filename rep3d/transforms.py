"""What MONAI's transforms lack: a check of what was loaded, crops of air, a way back to its grid, and a writer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import (
    ClipIntensityPercentiles,
    Compose,
    MapTransform,
    NormalizeIntensity,
    RandCropByPosNegLabeld,
    ScaleIntensityRange,
)
from monai.utils import convert_to_dst_type, convert_to_tensor
from scipy.ndimage import affine_transform

from rep3d.console.errors import CaseError, describe
from rep3d.data.cases import ONE_CHANNEL, first_file
from rep3d.data.notes import Window, channel_windows, image_note, modality_note, warn_once
from rep3d.io.geometry import Geometry, VolumeError, agreement_problem, check_geometry, plain_geometry
from rep3d.io.scans import read_scan_geometry
from rep3d.io.volumes import write_marked

Z_SCORE_PERCENTILES = (0.05, 99.95)  # between which voxels count: no single one decides
MAX_GRID_BYTES = 2**32  # of a volume that was resampled, in float32: a cube of one metre at 1 mm


class CheckVolumed(MapTransform):
    """Passes volumes on that a network can take, images (C, D, H, W) and label maps (1, D, H, W); raises for others.

    What is odd about the image and yet no reason to raise is logged once, and added to "note" in its metadata.

    Args:
        keys: the image; then label maps on its grid, which get its very affine.
        window: the intensities that will be mapped to 0 and 1; None: the z-score is taken. See
            `rep3d.data.notes.channel_windows`.
        spacing: millimetres of the RAS grid that the volumes will be resampled to; None: they will not be.
        max_bytes: of one image in float32 on that grid.
        channel_names: of an image.
        modality: of the bundle, such as MR; None: any.

    Raises:
        ValueError: names the file: other channels, not three spatial dimensions, NaN or infinite voxels, or a singular
            affine; a label map that does not lie on its image; or a volume of one voxel or too many of them on the
            grid of `spacing`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        window: Window = None,
        spacing: Sequence[float] | None = None,
        max_bytes: int = MAX_GRID_BYTES,
        allow_missing_keys: bool = False,
        channel_names: Sequence[str] = ONE_CHANNEL,
        modality: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.windows = channel_windows(window, len(channel_names))
        self.channel_names = channel_names
        self.modality = modality
        self.spacing = spacing
        self.max_bytes = max_bytes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        first: tuple[MetaTensor, Geometry] | None = None
        for key in self.key_iterator(d):
            volume = d[key]
            name = volume.meta.get("filename_or_obj", key)
            geometry = _checked(name, volume, self.channel_names if first is None else ONE_CHANNEL)
            if first is None:
                first = volume, geometry
                continue
            problem = agreement_problem(geometry, first[1])
            if problem:
                raise VolumeError(name, f"{problem} {first[0].meta.get('filename_or_obj', '')}".rstrip())
            d[key] = MetaTensor(volume.as_tensor(), meta={**volume.meta, "affine": first[0].affine})
        if first is not None:
            self._check_image(*first)
        return d

    def _check_image(self, volume: MetaTensor, geometry: Geometry) -> None:
        name = volume.meta.get("filename_or_obj", self.keys[0])
        if self.spacing is not None:
            check_resampled(name, geometry, self.spacing, self.max_bytes)
        voxels = volume.as_tensor().cpu().numpy()
        notes = (
            volume.meta.get("note", ""),
            image_note(voxels, self.windows),
            modality_note(voxels, self.modality),
        )
        for note in notes:
            warn_once(name, note)
        volume.meta["note"] = "; ".join(filter(None, notes))


def _checked(name: str, volume: MetaTensor, channel_names: Sequence[str]) -> Geometry:
    channels = len(channel_names)
    if volume.ndim != 4 or channels == 1 < volume.shape[0]:
        raise VolumeError(name, f"shape {tuple(volume.shape)}, expected one channel and three dimensions")
    if volume.shape[0] != channels:
        told = f"{channels} in one file of four dimensions: {', '.join(channel_names)}"
        raise VolumeError(name, f"{volume.shape[0]} channel(s), expected {told}")
    if not torch.isfinite(volume.as_tensor()).all():
        raise VolumeError(name, "some voxels are NaN or infinite")
    geometry = replace(plain_geometry(volume.shape[1:], volume.affine.cpu().numpy()), channels=channels)
    check_geometry(name, geometry)
    return geometry


def check_resampled(name: str, geometry: Geometry, spacing: Sequence[float], max_bytes: int) -> None:
    """Raise unless a volume will have a sensible size on a RAS grid.

    Args:
        name: of the file.
        spacing: millimetres of the grid.
        max_bytes: of the volume in float32 on it.

    Raises:
        VolumeError: it will be one voxel, or take more memory.
    """
    axes = nib.orientations.io_orientation(geometry.affine)[:, 0].astype(int)
    sizes = nib.affines.voxel_sizes(geometry.affine)
    shape = [1, 1, 1]
    for axis, n, size in zip(axes, geometry.shape, sizes, strict=True):
        shape[axis] = round((n - 1) * size / spacing[axis]) + 1
    nbytes = 4 * geometry.channels * math.prod(shape)
    if 1 < math.prod(shape) and nbytes <= max_bytes:
        return
    raise VolumeError(
        name,
        f"{_times(geometry.shape)} voxels of {_times(sizes)} mm become {_times(shape)} of {_times(spacing)} mm, "
        f"{nbytes / 2**30:.3g} GiB: expected more than one voxel and at most {max_bytes / 2**30:g} GiB "
        "(max_grid_bytes); is the file's spacing right?",
    )


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


class ToNativeGridd(MapTransform):
    """Puts label maps (1, D, H, W) on the grid of the file that their image was loaded from, by the nearest voxel.

    Goes by the affines, so that any preprocessing that keeps them right is undone. Unlike `Invertd` it holds no
    coordinates of all voxels: a CT of 1000 slices takes gigabytes less. Beyond the scan's own border the outermost
    labels go on, for `Spacingd` may end before the scan's last voxel; what a crop took off is background. So is all of
    an image of zeros, which shows nothing, such as a CT of air.

    Args:
        keys: label maps, `MetaTensor`s.
        orig_key: the image, a `MetaTensor` with the metadata of `LoadImaged`, on the grid of the label maps. Crops come
            after orientation and spacing.
    """

    def __init__(self, keys: KeysCollection, orig_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key = orig_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image = d[self.orig_key]
        affine = torch.as_tensor(image.meta["original_affine"], dtype=torch.float64)
        shape = tuple(int(n) for n in image.meta["spatial_shape"])
        for key in self.key_iterator(d):
            label = d[key]
            to_label = (torch.linalg.inv(label.affine.double().cpu()) @ affine).numpy()
            reach = np.ceil(np.abs(to_label[:3, :3]).sum(axis=1) / 2 + 1).astype(int)
            border = np.where(_cropped(image), 0, reach[:, None])
            labels = label[0].cpu().numpy() if image.any() else np.zeros(label.shape[1:], np.uint8)
            padded = np.pad(labels, border, mode="edge")
            offset = to_label[:3, 3] + border[:, 0]
            voxels = affine_transform(
                padded, to_label[:3, :3], offset, shape, order=0, mode="grid-constant", prefilter=False
            )
            d[key] = MetaTensor(torch.from_numpy(voxels).unsqueeze(0), meta={**label.meta, "affine": affine})
        return d


class CaseToMetad(MapTransform):
    """Puts an item's "case", where it has one, into the metadata of label maps: `rep3d.data.output_name` looks there.

    Args:
        keys: label maps, `MetaTensor`s.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            if "case" in data:
                data[key].meta["case"] = data["case"]
        return dict(data)


def _cropped(image: MetaTensor) -> np.ndarray:
    """Whether a crop took something off, (3, 2): at the low and the high end of each axis."""
    crops = [operation.get("extra_info", {}).get("cropped") for operation in image.applied_operations]
    off = sum((np.reshape([int(n) for n in crop], (3, 2)) for crop in crops if crop), np.zeros((3, 2), int))
    return off > 0


def foreground(image: NdarrayOrTensor) -> NdarrayOrTensor:
    """Where an image is above 0, for `CropForegroundd`; everywhere in one that is nowhere so, such as a CT of air."""
    mask = image > 0
    return mask if mask.any() else ~mask


class CropByPosNegLabeld(RandCropByPosNegLabeld):
    """`RandCropByPosNegLabeld` that crops anywhere in an image that is nowhere above `image_threshold`.

    Args:
        ignored_label: id of voxels that nobody judged: no crop has its centre there, unless all are; None: there are
            none.
        **others: as of `RandCropByPosNegLabeld`.
    """

    def __init__(self, *args: Any, ignored_label: int | None = None, **others: Any) -> None:
        super().__init__(*args, **others)
        self.ignored_label = ignored_label

    def randomize(
        self,
        label: torch.Tensor | None = None,
        fg_indices: NdarrayOrTensor | None = None,
        bg_indices: NdarrayOrTensor | None = None,
        image: torch.Tensor | None = None,
    ) -> None:
        if image is not None and not (image > self.cropper.image_threshold).any():
            image = None
        if self.ignored_label is not None and label is not None:
            judged = label != self.ignored_label
            label = label * judged
            if judged.any():
                lowest = self.cropper.image_threshold
                image = torch.where(judged, label.new_tensor(lowest + 1) if image is None else image, lowest)
        super().randomize(label, fg_indices, bg_indices, image)


class NamingCompose(Compose):
    """`Compose` whose errors name the file that the item under "image" comes from.

    Raises:
        CaseError: a transform fails.
    """

    def __call__(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        try:
            return super().__call__(data, *args, **kwargs)
        except Exception as error:
            name = getattr(data["image"], "meta", {}).get("filename_or_obj") or first_file(data)
            raise CaseError(f"{name}: {describe(error).removeprefix(f'{name}: ')}") from error


class NormalizeChannelsd(MapTransform):
    """Maps each channel's window to 0 and 1, with clip, or takes its z-score, see `Z_SCORE_PERCENTILES`.

    Args:
        keys: images (C, D, H, W).
        windows: see `rep3d.data.notes.channel_windows`.
    """

    def __init__(self, keys: KeysCollection, windows: Window = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.windows = windows

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            windows = channel_windows(self.windows, len(d[key]))
            channels = zip(windows, convert_to_tensor(d[key]), strict=True)
            normalized = torch.cat([_normalization(window)(channel[None]) for window, channel in channels])
            d[key] = convert_to_dst_type(convert_to_tensor(normalized), d[key], dtype=torch.float32)[0]
        return d


def _normalization(window: Sequence[float] | None) -> Callable[[torch.Tensor], Any]:
    if window is None:
        return Compose([ClipIntensityPercentiles(*Z_SCORE_PERCENTILES), NormalizeIntensity()])
    return ScaleIntensityRange(window[0], window[1], 0.0, 1.0, clip=True)


class LabelMapWriter(NibabelWriter):
    """A writer for `SaveImaged` of label maps on the grid of their scan, that of their metadata; the suffix of the file
    decides the format.

    A file is whole or not there. A volume of one channel keeps its three axes, also those of length 1, which MONAI
    drops at the end. Its files carry a mark by which `rep3d.io.volumes.is_untouched` knows them, and replace no other.

    Args:
        label_names: by id, the background first, for `.seg.nrrd`.
        **kwargs: as of `monai.data.NibabelWriter`.
    """

    def __init__(self, *args: Any, label_names: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.labels = {name: index for index, name in enumerate(label_names) if index > 0}

    def set_data_array(self, data_array: NdarrayOrTensor, *args: Any, **kwargs: Any) -> None:
        super().set_data_array(data_array, *args, **kwargs)
        if data_array.shape[0] == 1:
            self.data_obj = self.data_obj.reshape(data_array.shape[1:])

    def set_metadata(self, meta_dict: Mapping | None, resample: bool = True, **options: Any) -> None:
        super().set_metadata(meta_dict, resample, **options)
        self.scan = read_scan_geometry(Path((meta_dict or {})["filename_or_obj"]))

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Write the label map.

        Raises:
            VolumeError: it does not lie on its scan.
            ValueError: as `rep3d.io.volumes.write_marked`.
        """
        voxels = np.asarray(self.data_obj).astype(self.output_dtype)
        problem = agreement_problem(plain_geometry(voxels.shape, np.asarray(self.affine)), self.scan)
        if problem:
            raise VolumeError(filename, problem)
        write_marked(voxels, self.scan, Path(filename), self.labels)
