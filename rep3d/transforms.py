"""What MONAI's transforms lack: a check of what was loaded, a way back to its grid, and writing a file as a whole."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import Compose, MapTransform
from scipy.ndimage import affine_transform

from rep3d.errors import CaseError, describe


class CheckVolumed(MapTransform):
    """Passes volumes of shape (C, D, H, W) on that a network can take, and raises for others.

    Raises:
        ValueError: names the file: not three spatial dimensions, NaN or infinite voxels, or a singular affine.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            volume = data[key]
            name = volume.meta.get("filename_or_obj", key)
            if volume.ndim != 4 or volume.shape[0] != 1:
                raise ValueError(f"{name}: shape {tuple(volume.shape)}, expected one channel and three dimensions")
            if not torch.isfinite(volume.as_tensor()).all():
                raise ValueError(f"{name}: some voxels are NaN or infinite")
            if not torch.isfinite(volume.affine).all() or torch.linalg.det(volume.affine[:3, :3].double()).abs() < 1e-9:
                raise ValueError(f"{name}: affine {volume.affine.tolist()} is singular, expected an invertible one")
        return dict(data)


class ToNativeGridd(MapTransform):
    """Puts label maps (1, D, H, W) on the grid of the file that their image was loaded from, by the nearest voxel.

    Goes by the affines, so that any preprocessing that keeps them right is undone. Unlike `Invertd` it holds no
    coordinates of all voxels: a CT of 1000 slices takes gigabytes less. What lies more than a voxel outside the label
    map becomes background.

    Args:
        keys: label maps, `MetaTensor`s.
        orig_key: the image, a `MetaTensor` with the metadata of `LoadImaged`.
    """

    def __init__(self, keys: KeysCollection, orig_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key = orig_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        meta = d[self.orig_key].meta
        affine = torch.as_tensor(meta["original_affine"], dtype=torch.float64)
        shape = tuple(int(n) for n in meta["spatial_shape"])
        for key in self.key_iterator(d):
            label = d[key]
            to_label = (torch.linalg.inv(label.affine.double().cpu()) @ affine).numpy()
            padded = np.pad(label[0].cpu().numpy(), 1, mode="edge")
            voxels = affine_transform(
                padded, to_label[:3, :3], to_label[:3, 3] + 1, shape, order=0, mode="grid-constant", prefilter=False
            )
            d[key] = MetaTensor(torch.from_numpy(voxels).unsqueeze(0), meta={**label.meta, "affine": affine})
        return d


LABEL_MAP_MARK = b"label map by rep3d"  # in the header's description


def is_label_map_of_ours(path: str | os.PathLike) -> bool:
    """Whether an inference left this NIfTI file; False for one that cannot be read."""
    try:
        volume: Any = nib.load(path)
        return volume.header["descrip"].item() == LABEL_MAP_MARK
    except Exception:
        return False


class NamingCompose(Compose):
    """`Compose` whose errors name the file that the item under "image" comes from.

    Raises:
        CaseError: a transform fails.
    """

    def __call__(self, data: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        try:
            return super().__call__(data, *args, **kwargs)
        except Exception as error:
            image = data["image"]
            name = getattr(image, "meta", {}).get("filename_or_obj", image if isinstance(image, str) else "image")
            raise CaseError(f"{name}: {describe(error).removeprefix(f'{name}: ')}") from error


class WholeFileWriter(NibabelWriter):
    """`NibabelWriter` that writes to a temporary name and renames, so that a file is whole or not there.

    Its files carry a mark by which `is_label_map_of_ours` knows them, and replace none without it.

    A volume of one channel keeps its three axes, also those of length 1, which MONAI drops at the end.
    """

    def set_data_array(self, data_array: NdarrayOrTensor, *args: Any, **kwargs: Any) -> None:
        super().set_data_array(data_array, *args, **kwargs)
        if data_array.shape[0] == 1:
            self.data_obj = self.data_obj.reshape(data_array.shape[1:])

    @classmethod
    def create_backend_obj(cls, data_array: NdarrayOrTensor, *args: Any, **kwargs: Any) -> Any:
        volume: Any = super().create_backend_obj(data_array, *args, **kwargs)
        volume.header["descrip"] = LABEL_MAP_MARK
        return volume

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        path = Path(filename)
        if path.exists() and not is_label_map_of_ours(path):
            raise ValueError(
                f"{path}: no label map of rep3d and not replaced: give another output_dir, or move it away"
            )
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            super().write(temporary, verbose=verbose, **kwargs)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
