"""What MONAI's transforms lack: a check of what was loaded, and writing a file only as a whole."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import NibabelWriter
from monai.transforms import MapTransform


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


class WholeFileWriter(NibabelWriter):
    """`NibabelWriter` that writes to a temporary name and renames, so that a file is whole or not there."""

    def write(self, filename: str | os.PathLike, verbose: bool = False, **kwargs: Any) -> None:
        path = Path(filename)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            super().write(temporary, verbose=verbose, **kwargs)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
