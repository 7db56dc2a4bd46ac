"""No image both trains and judges: between the parts of a training, and between it and the weights it goes on from.

An image is known by the voxels of its first channel that is no drawing: its digest depends neither on the file's name,
header and compression nor on the type and order of the voxels. Weights carry the digests of the images that they were
trained on in the `_metadata` of their state dict, which PyTorch saves with it and ignores when it loads weights. An
equal name only gives a warning: many data sets have a `case_0`. Names are hashed as well, because weights are passed on
and names may be of patients.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np

from rep3d.console.progress import track
from rep3d.data.cases import Item, case_names, first_file, image_files
from rep3d.data.memory import file_key, read_memory, write_memory
from rep3d.data.notes import has_few_values
from rep3d.io.nifti import read_channels

logger = logging.getLogger(__name__)

KEY = "trained_on"  # in the metadata of a state dict
SHOWN_NAMES = 10

Cases = dict[str, str]  # names of cases by the digests of their images


class TrainingCases:
    """The cases of a training.

    Args:
        training: what it trains on.
        validation: what it validates with.
    """

    def __init__(self, training: Cases, validation: Cases) -> None:
        self.training, self.validation = training, validation
        self.earlier: dict[str, str] = {}  # what the weights that the training goes on from were trained on

    def go_on_from(self, weights: Mapping[str, Any], path: str | os.PathLike) -> None:
        """Add what weights were trained on, before the training goes on from them.

        Raises:
            ValueError: they were trained on images of the validation part. Names those.
        """
        earlier = trained_images(weights)
        seen = self._seen(earlier)
        if seen:
            raise ValueError(
                f"{path} was trained on {len(seen)} of the {len(self.validation)} validation cases, which would look "
                f"better than new ones: {some(seen)}; let them train, or start from other weights"
            )
        alike = [name for name in self.validation.values() if _hashed(name) in earlier.values()]
        if alike:
            logger.warning("%s was trained on other images with names of validation cases: %s", path, some(alike))
        self.earlier = earlier

    def trained_otherwise(self, weights: Mapping[str, Any]) -> str:
        """What tells that weights are of a training on other cases; empty where nothing does, or they do not tell."""
        earlier = trained_images(weights)
        new = [name for digest, name in self.training.items() if digest not in earlier]
        told = []
        if seen := self._seen(earlier):
            told.append(f"it was trained on {len(seen)} of the {len(self.validation)} validation cases: {some(seen)}")
        if earlier and new:
            told.append(f"it was not trained on {len(new)} of the {len(self.training)} training cases: {some(new)}")
        return "; ".join(told)

    def _seen(self, earlier: Mapping[str, str]) -> list[str]:
        """The validation cases whose digests are among these."""
        return [name for digest, name in self.validation.items() if digest in earlier]

    def validated_otherwise(self, before: Iterable[str]) -> bool:
        """Whether the validation images are others than those of these digests."""
        return set(before) != self.validation.keys()

    def mark(self, weights: Any) -> Any:
        """A network's state dict, which now tells what it was trained on."""
        own = {digest: _hashed(name) for digest, name in self.training.items()}
        weights._metadata[KEY] = self.earlier | own
        return weights


def training_cases(
    training: Sequence[Item], validation: Sequence[Item], memory: str | os.PathLike | None = None
) -> TrainingCases:
    """The cases of a training, of which none stands in both parts.

    Args:
        training: {"image": path}.
        validation: {"image": path}.
        memory: JSON file that remembers the images' digests as long as their size and modification time stay, or None.

    Raises:
        ValueError: an image stands in both parts, or two images are one case. Names the files.
    """
    items = [*training, *validation]
    name_of, digests = _names(items), item_digests(items, memory)
    parts = [
        {digests[first_file(item)]: _path(item) for item in part if first_file(item) in digests}
        for part in (training, validation)
    ]
    shared = [f"{parts[0][digest]} and {parts[1][digest]}" for digest in parts[0] if digest in parts[1]]
    if shared:
        raise ValueError(
            f"{len(shared)} image(s) stand in the training and in the validation part: {some(shared)}; expected every "
            "image in one of them"
        )
    named = [{digest: name_of[image] for digest, image in part.items()} for part in parts]
    return TrainingCases(*named)


def trained_images(weights: Mapping[str, Any]) -> dict[str, str]:
    """The digests of the images that a state dict was trained on, with hashed names; none where it does not tell."""
    return getattr(weights, "_metadata", {}).get(KEY, {})


def item_digests(items: Iterable[Item], memory: str | os.PathLike | None = None) -> dict[str, str]:
    """Digests of images, by their first files; none of one whose files `image_digests` has none of.

    Args:
        items: {"image": path or paths}.
        memory: as for `training_cases`.
    """
    left, found = {first_file(item): image_files(item) for item in items}, dict[str, str]()
    while left:
        digests = image_digests([file for file, *_ in left.values()], memory)
        found |= {first: digests[file] for first, (file, *_) in left.items() if file in digests}
        left = {first: others for first, (_, *others) in left.items() if others and first not in found}
    return found


def image_digests(images: Iterable[str], memory: str | os.PathLike | None = None) -> dict[str, str]:
    """Digests of the voxels of NIfTI files, by path; none of one that cannot be read or has few values.

    Args:
        images: paths.
        memory: as for `training_cases`.
    """
    keys = {image: file_key(image) for image in images if os.path.isfile(image)}
    known = read_memory(memory)
    pending = [image for image, key in keys.items() if not known.get(key)]  # earlier code looked at one channel alone
    for image in track(pending, "Comparing images", "image"):
        known[keys[image]] = _digest(image)
    if pending:
        write_memory(memory, known)
    return {image: known[key] for image, key in keys.items() if known[key]}


def cases_among(items: Sequence[Item], known: Collection[str], memory: str | os.PathLike | None = None) -> list[str]:
    """The cases among {"image": path} whose images have one of these digests.

    Args:
        known: where there is none, no image is read.
        memory: as for `training_cases`.
    """
    digests = item_digests(items, memory) if known else {}
    return [name for item, name in zip(items, case_names(items), strict=True) if digests.get(first_file(item)) in known]


def voxel_digest(channels: np.ndarray, affine: np.ndarray) -> str:
    """By which an image is known; empty where each channel has few values.

    Args:
        channels: (C, D, H, W).
        affine: (4, 4), to millimetres.
    """
    voxels = next((channel for channel in channels if not has_few_values(channel)), None)
    if voxels is None:
        return ""
    digest = hashlib.sha256()
    voxels = nib.orientations.apply_orientation(voxels, nib.io_orientation(affine))
    for plane in voxels.T:  # a NIfTI file's order; plane by plane, so that no copy of a large volume is made
        digest.update(np.ascontiguousarray(plane, dtype=np.float32).data)
    return digest.hexdigest()


def some(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _names(items: Iterable[Item]) -> dict[str, str]:
    """Names of the cases by the paths of their images; an image may be listed repeatedly."""
    item_of = {_path(item): item for item in items}
    return dict(zip(item_of, case_names(list(item_of.values())), strict=True))


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _path(item: Item) -> str:
    return os.path.abspath(first_file(item))


def _digest(path: str) -> str:
    try:
        channels, geometry = read_channels(path)
    except ValueError:
        return ""
    return voxel_digest(channels, geometry.affine)
