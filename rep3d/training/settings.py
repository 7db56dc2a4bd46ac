"""What a training was told, whatever its bundle says later: whoever uses the weights needs not type it again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rep3d.console.configurations import plain_values
from rep3d.console.typed import PATHS
from rep3d.console.workflows import running_config
from rep3d.files import read_json
from rep3d.shipped import AS_TRAINED, OF_THE_DATA, settings_beside, write_settings

logger = logging.getLogger(__name__)

IMPORTS = "imports"
INTERPOLATION = "image_interpolation"
# Whatever inference has.
OF_WEIGHTS = (*OF_THE_DATA, "network_def", "preprocessing", "spacing", INTERPOLATION, "intensity_window")
# What the weights do not rest on.
OF_A_RUN = (*PATHS, "device", "traceback", "max_grid_bytes", "modality", "sw_batch_size", "refinement")
# Nor on this, of what a training has; its epochs may become more when it goes on.
OF_THE_COMPUTER = ("rank", "num_workers", "prompt_workers", "cache_num", "keep_freed_memory", "progress_seconds")
OF_ONE_TRAINING = ("fold", "resume", "epochs", "keep_kernel_sums", "process_group")
LEARNING = ("init_from", "loss", "optimizer", "lr_scheduler", "train")  # what else decides what is learned


def training_settings(bundle_root: str | os.PathLike) -> dict[str, Any]:
    """The entries that inference shares with the running training, as this one was told them, such as the spacing.

    Those that the weights rest on are among them also where the bundle's inference has something else.

    Imports are among them only where they are not the bundle's own. Empty outside of a workflow.
    """
    config = running_config()
    if config is None:
        return {}
    own = _bundle_settings(Path(bundle_root), always=OF_WEIGHTS)
    told = {name: config[name] for name in own if name in config}
    if told.get(IMPORTS) == own.get(IMPORTS):
        told.pop(IMPORTS, None)
    if INTERPOLATION in told:
        told[INTERPOLATION] = _image_interpolation(config)
    return _as_in_json(told)


def learning_settings() -> dict[str, Any]:
    """What the running training was told and its weights rest on: numbers, lists of them, truth values and `LEARNING`.

    Of folds of one bundle these are the same. An option without a value is None. Empty outside of a workflow.
    """
    config = running_config()
    return {} if config is None else settings_of_learning(config)


def settings_of_learning(config: Mapping[str, Any]) -> dict[str, Any]:
    """As `learning_settings`, of an unresolved configuration."""
    unset = {name: None for name, value in config.items() if value is None}
    own = {**unset, **plain_values(config)}
    left_out = {*OF_A_RUN, *OF_THE_COMPUTER, *OF_ONE_TRAINING}
    plain = {name: value for name, value in own.items() if name not in left_out}
    return _as_in_json(plain | {name: config[name] for name in LEARNING if name in config})


def keep_settings(bundle: Path) -> list[Path]:
    """Complete what lies beside the weights in a bundle's folder, before its configs change.

    Of trainings by earlier versions nothing lies there of what was as in the bundle.

    Returns:
        The weights.
    """
    found = [path for path in sorted((bundle / "models").rglob("[!.]*.pt")) if path.is_file()]
    if not found:
        return []
    own = _bundle_settings(bundle)
    own.pop(IMPORTS, None)
    for weights in found:
        known = read_json(settings_beside(weights))
        if own.keys() - known.keys():
            write_settings({**own, **known}, weights)
    return found


def other_settings(weights: Path, bundle: Path) -> list[str]:
    """The entries that weights were trained with otherwise than their bundle's configs have them."""
    own = _bundle_settings(bundle)
    return [name for name, value in read_json(settings_beside(weights)).items() if own.get(name) != value]


def warn_of_other_settings(weights: str | os.PathLike | Sequence[str | os.PathLike]) -> None:
    """Say where the running inference computes otherwise than its weights were trained."""
    config = running_config()
    for path in [weights] if isinstance(weights, str | os.PathLike) else weights:
        beside = settings_beside(path)
        if not beside.is_file() and any(Path(path).parent.glob(f"{AS_TRAINED}*.json")):
            logger.warning("%s: nothing tells what it was trained with, expected %s", path, beside)
        settings = read_json(beside)
        others = [
            name for name, value in settings.items() if config is not None and _as_in_json(config.get(name)) != value
        ]
        if others:
            logger.warning(
                "%s was trained with other %s: lay %s over the config files",
                path,
                ", ".join(others),
                beside,
            )


def _bundle_settings(bundle: Path, always: Collection[str] = ()) -> dict[str, Any]:
    """The entries that the bundle's own training and inference share, and some of which both have their own."""
    train, inference = (read_json(bundle / "configs" / f"{name}.json") for name in ("train", "inference"))
    return {
        name: train[name]
        for name, value in inference.items()
        if name in train and (train[name] == value or name in always) and name not in OF_A_RUN
    }


def _image_interpolation(config: Mapping[str, Any]) -> Any:
    """The image's, where a training was told those of image and label by themselves, too."""
    interpolation = config.get("interpolation", [])
    first = interpolation if isinstance(interpolation, str) else next(iter(interpolation), None)
    is_told = first is not None and first != f"@{INTERPOLATION}"
    return first if is_told else config[INTERPOLATION]


def _as_in_json(value: Any) -> Any:
    """Such as lists for tuples, which a command line makes."""
    return json.loads(json.dumps(value, default=str))
