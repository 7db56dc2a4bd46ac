"""The sentences of a bundle's README that follow from its configuration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from monai.bundle import ConfigParser

from rep3d.transforms import Z_SCORE_PERCENTILES

COMPUTED = {"weights", "network", "grid", "labels", "split", "prepare", "folds", "preprocessing"}
OF_WEIGHTS = {"our_dice"}  # computed too, where weights ship
OPTIONAL = {"split_note"}  # of a data set's "readme": what follows the sentence on its split
OWN = "own"  # the layout of data sets that `rep3d new` reads
PREPARE = (
    "`rep3d prepare {} --source DOWNLOAD --output_dir DIR` checks the download, links it into `DIR` and\n"
    "writes the split to `DIR/splits.json`, where you may change it."
)
PREPARED = (
    "`rep3d new` wrote it to `data/splits.json`, where you may change it. `DIR` below is `data` unless you say more."
)


def computed_fields(
    name: str, train: Mapping[str, Any], dataset: Mapping[str, Any], weights: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The fields COMPUTED of the README's template, and OF_WEIGHTS where some ship.

    Of a variant, whose data are of any kind, those of its training and its weights.

    Args:
        name: of the bundle.
        train: the bundle's train config.
        dataset: the data set's file in configs/datasets, with its recipe.
        weights: the file in configs/weights of those that ship with the bundle, or None.
    """
    of_weights = {} if weights is None else {"our_dice": dice_in_words(weights)}
    trained = {
        "weights": weights_in_words(weights),
        "network": network_in_words(train["network_def"]),
        "grid": _by(train["patch_size"]),
    }
    if "variant" in dataset:
        return of_weights | trained
    data, note = dataset["data"], dataset["readme"].get("split_note", "")
    unit = " HU" if dataset["metadata"]["modality"] == "CT" else ""
    return (
        of_weights
        | trained
        | {
            "labels": ", ".join(f"{i} {name}" for i, name in enumerate(train["label_names"])),
            "split": " ".join(filter(None, [split_in_words(data["split"], data["folds"]), note])),
            "prepare": PREPARED if data["layout"] == OWN else PREPARE.format(name),
            "folds": folds_in_words(data["folds"]),
            "preprocessing": f"{preprocessing_in_words(train, unit)}; {crops_in_words(train)}.",
        }
    )


def weights_in_words(weights: Mapping[str, Any] | None) -> str:
    if weights is None:
        return "**No trained weights ship with this bundle.**"
    size = f"{weights['bytes'] / 1e6:.1f} MB"
    return (
        f"**Trained weights ship with this bundle**: `models/model.pt`, {size} in half precision,\n"
        f"with the SHA-256 `{weights['sha256']}`.\n"
        f"Licence: {weights['licence']}. `models/NOTICE` and `configs/metadata.json` say where they come from."
    )


def dice_in_words(weights: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {dice:.3f}" for name, dice in weights["dice"].items())
    return f"{scores} ({weights['cases']}; trained in {weights['duration']} on {weights['processor']})"


def network_in_words(network_def: Mapping[str, Any]) -> str:
    name = _kind(network_def)
    if name != "Rep3D":
        return name
    kernels = f"{_by([network_def['kernel_size']] * 3)} depthwise convolutions"
    modulated = " that a spatial mask modulates" if network_def["modulation"] in ("lrbm", "fixed") else ""
    return f"Rep3D, a network of {kernels}{modulated}\n([paper](https://arxiv.org/abs/2505.19603))"


def split_in_words(sizes: Mapping[str, int], folds: int) -> str:
    training, validation, test = (sizes[part] for part in ("training", "validation", "test"))
    if not test:
        each = "" if folds == 1 else f"{folds} folds, each of "
        return f"{each}{training} training and {validation} validation cases; there are no test cases."
    if folds == 1:
        return f"{training} training, {validation} validation and {test} test cases."
    return f"{folds} folds of {training} training and {validation} validation cases; all share {test} test cases."


def folds_in_words(folds: int) -> str:
    if folds == 1:
        return ""
    return f"\nTrain another fold with `--fold 1` (to {folds - 1}): its weights go to `models/trained/fold1`."


def preprocessing_in_words(train: Mapping[str, Any], unit: str) -> str:
    """The deterministic transforms but for loading, in their order.

    Args:
        unit: of the intensities, with a blank before it; empty where they have none.
    """
    parser, words = ConfigParser(copy.deepcopy(train)), []  # which rewrites what it reads
    for i, transform in enumerate(train["preprocessing"]["transforms"]):
        words.append(_transform_in_words(_kind(transform), _values(parser, f"preprocessing#transforms#{i}"), unit))
    return ", ".join(filter(None, words))


def crops_in_words(train: Mapping[str, Any]) -> str:
    count = max(transform.get("num_samples", 1) for transform in train["train"]["random_transforms"])
    crops = "a crop" if count == 1 else f"{count} crops"
    return f"training takes {crops} of {_by(train['patch_size'])}"


def _transform_in_words(kind: str, value: Callable[[str], Any], unit: str) -> str:
    match kind:
        case "LoadImaged" | "CheckVolumed":
            return ""
        case "Orientationd":
            return f"{value('axcodes')} orientation"
        case "Spacingd":
            return f"{_by(value('pixdim'), ' x ')} mm"
        case "ScaleIntensityRanged":
            return f"window {value('a_min'):g} to {value('a_max'):g}{unit} to {value('b_min'):g}-{value('b_max'):g}"
        case "NormalizeIntensityd":
            return "intensity z-scored per case"
        case "NormalizeChannelsd":
            return _windows_in_words(value("windows"), unit)
        case "ClipIntensityPercentilesd":
            return _clip_in_words(value("lower"), value("upper"))
        case "CropForegroundd":
            return "foreground crop"
        case _:
            return kind.removesuffix("d")


def _windows_in_words(windows: Any, unit: str) -> str:
    """Those of `rep3d.data.notes.channel_windows`."""
    if windows is None:
        return f"{_clip_in_words(*Z_SCORE_PERCENTILES)}, intensity z-scored per case"
    if isinstance(windows[0], Real):
        return _window_in_words(windows, unit)
    return "; ".join(f"channel {c} {_window_in_words(window)}" for c, window in enumerate(windows))


def _window_in_words(window: Sequence[float] | None, unit: str = "") -> str:
    return "z-scored per case" if window is None else f"window {window[0]:g} to {window[1]:g}{unit} to 0-1"


def _clip_in_words(lower: float, upper: float) -> str:
    return f"clipped at percentiles {lower:g} and {upper:g}"


def _values(parser: ConfigParser, transform: str) -> Callable[[str], Any]:
    """A transform's arguments by name, references resolved; the others are left alone."""
    return lambda name: parser.get_parsed_content(f"{transform}#{name}")


def _kind(component: Mapping[str, Any]) -> str:
    return component["_target_"].rpartition(".")[2]


def _by(sides: Sequence[float], sign: str = "x") -> str:
    return sign.join(f"{side:g}" for side in sides)
