"""The weights that a bundle ships with, and those that are trained in its folder.

    models/model.pt            the bundle ships with it, or not; MONAI's own `load` reads it
    models/trained/model.pt    trained in the bundle's folder, on the command line or in the label app
    models/trained/as_trained.json    what that training was told, see `rep3d.training.training_settings`

Nothing here writes to the first.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rep3d.files import read_json, write_json

logger = logging.getLogger(__name__)

AS_TRAINED = "as_trained"  # .json, beside trained weights: what their training was told
# Of that, what the data set has as well: its label maps and images are made by it.
OF_THE_DATA = ("channel_names", "label_names", "regions", "regions_class_order", "ignored_label")
SHOWN = 60  # characters of a setting, in a message
SHIPPED, TRAINED = "models/model.pt", "models/trained/model.pt"
METADATA, NOTICE = "configs/metadata.json", "models/NOTICE"
INCLUDED = ("configs", "docs", "LICENSE")  # of a bundle, beside its weights


def find_weights(bundle_root: str | os.PathLike, ckpt_dir: str | os.PathLike | None = None) -> Path:
    """The weights that a bundle computes with: its `model.pt` in ckpt_dir, or else, where nothing was trained in the
    bundle's own folder for that, the ones that it ships with. The file may not be there.

    Args:
        bundle_root: the bundle's folder.
        ckpt_dir: where its trainings write to; by default its own folder. There is no substitute for what is missing
            from another one, such as that of a fold.
    """
    trained, shipped = Path(bundle_root) / TRAINED, Path(bundle_root) / SHIPPED
    folder = trained.parent if ckpt_dir is None else Path(ckpt_dir)
    own = folder.resolve() == trained.parent.resolve()
    if own and shipped.is_file() and not any(folder.glob("[!.]*.pt")):  # one may be of a training that goes on
        return shipped
    return folder / trained.name


def settings_beside(weights: str | os.PathLike) -> Path:
    """The file of what the training of a `model.pt`, `last.pt` or `model_DATE.pt` was told; it may not be there.

    It can be laid over the configs of a bundle.
    """
    weights = Path(weights)
    _, _, date = weights.stem.partition("_")
    return weights.with_name(f"{AS_TRAINED}_{date}.json" if date else f"{AS_TRAINED}.json")


def overlays_of(weights: str | os.PathLike) -> list[Path]:
    """What to lay over the configs of a bundle that takes these weights: their `settings_beside`, where it is there."""
    path = settings_beside(weights).resolve()
    return [path] if path.is_file() else []


def write_settings(settings: Mapping[str, Any], weights: Path) -> None:
    """Leave what a training was told beside its weights, or nothing where it was told nothing."""
    path = settings_beside(weights)
    if settings:
        write_json(path, settings)
    else:
        path.unlink(missing_ok=True)


def check_settings(weights: str | os.PathLike, now: Mapping[str, Any], doing: str) -> None:
    """Refuse to go on with weights by other settings than those of their training.

    Args:
        weights: they, or their `settings_beside`, may not be there.
        now: settings by name; what is in only one of both does not count.
        doing: begins the message.

    Raises:
        ValueError: names what differs.
    """
    path = settings_beside(weights)
    others = differences(read_json(path), now)
    if others:
        cure = "train anew" if others.keys() & set(OF_THE_DATA) else f"give --config_file {path}, or train anew"
        raise ValueError(f"{doing}: {weights} was trained with {'; '.join(others.values())}: {cure}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs between settings, in words by name; what is in only one of both does not count."""
    others = [name for name, value in before.items() if name in now and now[name] != value]
    return {name: f"{name} {_short(before[name])}, now {_short(now[name])}" for name in others}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def weights_in_use(bundle_root: str | os.PathLike, ckpt_dir: str | os.PathLike) -> str:
    """As `find_weights`, and the log says which they are."""
    weights = find_weights(bundle_root, ckpt_dir)
    if weights == Path(bundle_root) / SHIPPED:
        logger.info("weights: %s, which came with the bundle; none were trained in %s", weights, ckpt_dir)
    else:
        logger.info("weights: %s", weights)
    return str(weights)


def check_ckpt_dir(ckpt_dir: str | os.PathLike, bundle_root: str | os.PathLike) -> None:
    """Keep a training away from the weights that its bundle ships with.

    Raises:
        ValueError: it would write to their folder.
    """
    shipped = Path(bundle_root) / SHIPPED
    if Path(ckpt_dir).resolve() == shipped.parent.resolve():
        raise ValueError(
            f"ckpt_dir is {str(ckpt_dir)!r}, where {shipped.name} is what the bundle ships with, and no training "
            f"writes to it; expected another folder, such as {Path(bundle_root) / Path(TRAINED).parent}"
        )
