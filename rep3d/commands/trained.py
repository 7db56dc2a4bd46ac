"""Weights of earlier trainings: which a run takes, and whether a training would come to the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fire.parser import DefaultParseValue

from rep3d.commands.lines import command, overlay_paths, paths_of, read_config, told_by
from rep3d.console.status import TRAINING_STATUS, read_status
from rep3d.files import read_json
from rep3d.shipped import OF_THE_DATA, TRAINED, check_settings, differences, find_weights, settings_beside

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

SEPARATOR = "::"  # MONAI's, of the parts of an id; or #


def with_weights(
    run_id: str, bundle: Path, files: Sequence[str], overlays: str | None, options: Mapping[str, str]
) -> list[str]:
    """The arguments of `python -m monai.bundle` for a run of trained weights, with what their training was told.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: they are of different settings.
    """
    weights = _chosen_weights(bundle, overlays, options)
    for path in weights:
        if not path.is_file() and not str(path).startswith("$"):
            raise FileNotFoundError(f"no weights at {str(path)!r}: train first, or give a checkpoint")
    told = {path: read_json(path) for path in map(settings_beside, weights)}
    first, *others = told.values()
    if any(other != first for other in others):
        raise ValueError(f"{' and '.join(map(str, told))} differ: expected checkpoints of equal settings")
    return command(run_id, bundle, files, overlays, options, [str(path) for path in told if first][:1])


def _chosen_weights(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> list[Path]:
    """The checkpoints that a run takes by what is typed and by its overlays."""
    told = told_by(overlays, options)
    if "checkpoint" in told:
        return [Path(path) for path in paths_of("checkpoint", told["checkpoint"])]
    return [_weights_of(bundle, told)]


def _weights_of(bundle: Path, options: Mapping[str, str]) -> Path:
    """Raises ValueError: fold is no whole number."""
    fold = options.get("fold", "0")
    if "ckpt_dir" in options or fold == "0":
        return find_weights(bundle, options.get("ckpt_dir"))
    if not fold.isdecimal():
        raise ValueError(f"fold is {fold!r}, expected a whole number from 0")
    from rep3d.data.splits import fold_folder  # here, not above: it takes seconds

    return find_weights(bundle, fold_folder(str(bundle / Path(TRAINED).parent), int(fold)))


def check_own_data(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> None:
    """Refuse weights that know other labels, or images, than the bundle's own data set, which `rep3d new` made anew."""
    own = _config(bundle, overlays, options)
    for weights in _chosen_weights(bundle, overlays, options):
        check_settings(weights, {name: own[name] for name in OF_THE_DATA if name in own}, "evaluate")


def is_trained(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> bool:
    """Whether the training of a fold has come to its end, and of as many epochs as it is told now.

    Raises:
        ValueError: it was told other settings than now, has other cases now than those it was trained on, or label maps
            that were changed since.
    """
    weights = _weights_of(bundle, options)
    status = read_status(weights.with_name(TRAINING_STATUS))
    if not weights.is_file() or status is None or status.state != "finished":
        return False
    parser = _training(bundle, overlays, options)
    if status.epochs != parser["epochs"]:
        return False
    from rep3d.training.settings import settings_of_learning  # here, not above: it takes seconds

    fold = f"fold {options['fold']}"
    check_settings(weights, _config(bundle, overlays, options), fold)
    others = differences(status.settings, settings_of_learning(cast(dict, parser.config)))
    if others:
        told = "; ".join(others.values())
        raise ValueError(
            f"{fold}: {weights} was trained with {told}: give what it was, or train anew, without --resume"
        )
    _check_cases(weights, parser, options["fold"])
    return True


def _training(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> ConfigParser:
    """The configuration that would train, with ids as a run has them."""
    from monai.bundle import ConfigParser  # here, not above: they take seconds

    from rep3d.console.typed import BOOLEANS, PATHS, as_text

    parser = ConfigParser()
    parser.read_config([str(bundle / "configs/train.json"), *overlay_paths(overlays)])
    for name, value in options.items():
        is_path = name in PATHS and not value.startswith("[")
        parser[name] = as_text(value) if is_path else BOOLEANS.get(value.lower(), DefaultParseValue(value))
    parser["bundle_root"] = as_text(str(bundle))
    parser.parse()
    return parser


def _check_cases(weights: Path, parser: ConfigParser, fold: str) -> None:
    """Refuse weights of a fold whose training would have other cases now, or changed label maps.

    Weights that do not tell their cases are taken.

    Args:
        weights: of a training that has come to its end.
        parser: of the config that would train.
        fold: its number.

    Raises:
        ValueError: names the cases, or the label maps.
    """
    from rep3d.data.leakage import trained_images  # here, not above: they take seconds
    from rep3d.training.checkpoints import read_weights

    trained = read_weights(weights)
    if not trained_images(trained):
        return
    others = parser.get_parsed_content("cases").trained_otherwise(trained)
    if others:
        raise ValueError(f"fold {fold}: {weights} is of other cases: {others}; train anew, without --resume")
    _check_labels(weights, parser, fold)


def _check_labels(weights: Path, parser: ConfigParser, fold: str) -> None:
    """As `_check_cases`, weights whose training began before one of its label maps was written."""
    from rep3d.data.dataset_json import originals  # here, not above: they take seconds
    from rep3d.data.leakage import some

    status = read_status(weights.with_name(TRAINING_STATUS))
    began = min(weights.stat().st_mtime, (status and status.started) or math.inf)
    original_of = originals(Path(parser.get_parsed_content("dataset_dir")))  # copies are written by each `rep3d new`
    items = [item for part in ("train", "validate") for item in parser.get_parsed_content(f"{part}#dataset#data")]
    labels = [Path(original_of.get(item["label"], item["label"])) for item in items if "label" in item]
    newer = [str(label) for label in labels if label.is_file() and label.stat().st_mtime > began]
    if newer:
        told = f"{len(newer)} label map(s) were changed after the training of {weights} began: {some(newer)}"
        raise ValueError(f"fold {fold}: {told}; train anew, without --resume")


def _config(bundle: Path, overlays: str | None, options: Mapping[str, str]) -> dict[str, object]:
    """The entries of the config that trains, without those that are typed, as a whole or in part."""
    config: dict[str, object] = {}
    for path in (str(bundle / "configs/train.json"), *overlay_paths(overlays)):
        config |= read_config(path)
    places = [name.replace(SEPARATOR, "#").partition("#") for name in (*config, *options)]
    changed = {*options, *(whole for whole, part, _ in places if part)}
    return {name: value for name, value in config.items() if name not in changed}
