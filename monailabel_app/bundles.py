"""The bundles that the app can serve: what their metadata says, and whether they have weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rep3d.files import read_json
from rep3d.shipped import SHIPPED, TRAINED, find_weights, settings_beside


class TakesPrompts(ValueError):
    """The bundle's network segments what prompts show, see "prompts" in its metadata, and nothing by itself."""


@dataclass(frozen=True)
class Bundle:
    """One MONAI Bundle on disk."""

    root: Path
    labels: dict[str, int]  # without the background
    description: str
    version: str
    shipped_sha256: str = ""  # of the weights that its metadata says it ships with
    shipped_licence: str = ""  # likewise
    takes_prompts: bool = False  # and segments what they show, not labels of its own
    channels: int = 1  # of an image

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def weights(self) -> Path:
        """The weights that serve; the file may not be there yet."""
        return find_weights(self.root)

    @property
    def licence(self) -> str:
        """Of the weights that serve, in words."""
        return self.shipped_licence if self.weights == self.shipped else "that of the data it was trained on here"

    @property
    def own_weights(self) -> Path:
        """What is to serve goes here: nothing writes to `shipped`."""
        return self.root / TRAINED

    @property
    def shipped(self) -> Path:
        """The weights that the bundle came with, where it did."""
        return self.root / SHIPPED

    @property
    def settings(self) -> dict[str, Any]:
        """What the training of the weights that serve was told, by config id; it goes before the bundle's configs."""
        return read_json(settings_beside(self.weights))

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.json"


def read_bundle(root: Path, *, prompts: bool = False) -> Bundle:
    """Read `configs/metadata.json` of a bundle that segments by itself, or of one that takes prompts.

    Raises:
        ValueError: the file lacks what the app needs, or the bundle is of the other kind.
    """
    path = root / "configs/metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
        if metadata.get("prompts") and not prompts:
            raise TakesPrompts(f"{root.name} is no model for automatic segmentation: it takes prompts, such as points")
        if prompts and not metadata.get("prompts"):
            raise ValueError("it takes no prompts")
        labels = _labels(metadata)
        weights = metadata.get("weights")  # of other people's bundles it may be anything
        shipped = [weights.get(key, "") if isinstance(weights, dict) else "" for key in ("sha256", "licence")]
        sha256, licence = map(str, shipped)
        channels = 1 if prompts else _channels(metadata)
        return Bundle(root, labels, metadata["description"], metadata["version"], sha256, licence, prompts, channels)
    except TakesPrompts:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: no metadata of a segmentation bundle ({error!r})") from error


def _labels(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The ids of label maps by name: the network's channels, unless these are regions, or voxels may be ignored."""
    if isinstance(metadata.get("label_map"), dict):
        return {name: int(index) for name, index in metadata["label_map"].items()}
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return {name: int(index) for index, name in channels.items() if int(index) > 0}


def _channels(metadata: Mapping[str, Any]) -> int:
    """Of an image; one where other people's bundles do not say."""
    inputs = metadata["network_data_format"].get("inputs", {})
    return int(inputs.get("image", {}).get("num_channels", 1))


def choose_bundles(folder: Path, models: str) -> dict[str, Bundle]:
    """The bundles to serve by name that segment by themselves; for the one that takes prompts see `find_prompted`.

    Args:
        folder: holds one folder per bundle.
        models: names separated by commas, or "all": every bundle that has weights.

    Raises:
        ValueError: a name is not there, or "all" finds no weights.
    """
    found = {path.parents[1].name: path.parents[1] for path in sorted(folder.glob("*/configs/inference.json"))}
    if models == "all":
        names = [name for name, root in found.items() if find_weights(root).is_file()]
        if not names:
            raise ValueError(
                f"models is 'all', but no bundle in {folder} has weights: train one, put them in its {TRAINED}, "
                f"or name a bundle to train it from a client: {', '.join(found) or 'there is none'}"
            )
    else:
        names = [name.strip() for name in models.split(",") if name.strip()]
        unknown = [name for name in names if name not in found]
        if unknown or not names:
            raise ValueError(
                f"models is {models!r}, expected 'all' or some of {', '.join(found)} (bundles in {folder})"
            )
    return {name: read_bundle(found[name]) for name in names if not _takes_prompts(found[name])}


def find_prompted(folder: Path) -> Bundle | None:
    """The bundle that follows prompts, where the folder has one; of several the first that has weights."""
    roots = [path.parents[1] for path in sorted(folder.glob("*/configs/inference.json"))]
    found = [read_bundle(root, prompts=True) for root in roots if _takes_prompts(root)]
    return next((bundle for bundle in found if bundle.weights.is_file()), found[0] if found else None)


def _takes_prompts(root: Path) -> bool:
    try:
        read_bundle(root)
    except TakesPrompts:
        return True
    except ValueError:  # of no interest where it is not served
        return False
    return False
