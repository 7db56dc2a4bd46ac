"""Which submitted labels a bundle can be trained on, and why not on others."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from monailabel_app.bundles import Bundle
from monailabel_app.errors import RequestError
from monailabel_app.studies.folder import FINAL, StudiesFolder
from monailabel_app.studies.submission import bundles_with, label_ids, largest_structure
from monailabel_app.studies.volumes import read_grid
from rep3d.data import submissions
from rep3d.data.regions import IGNORE
from rep3d.data.submissions import ABSENT, LABELLED, UNNAMED
from rep3d.interactive.cubes import MIN_VOXELS
from rep3d.io.geometry import agreement_problem

logger = logging.getLogger(__name__)

Item = dict[str, str]  # paths of image and label


def find_labelled(
    bundle: Bundle, served: Sequence[Bundle], datastore: StudiesFolder
) -> tuple[dict[str, Item], dict[str, str]]:
    """The final labels in this bundle's ids, by image; of each the version that no later submission changes.

    A bundle that takes prompts learns from the labels of all bundles: to it each is a structure. And why others are
    left out, but for those of other bundles that have none of its segments, or are served.

    Args:
        served: all bundles of the app, to tell which one a label belongs to that was put there by hand.
    """
    items, left_out = {}, datastore.labels_set_aside()
    for image_id in datastore.get_labeled_images():
        label, info = datastore.fixed_label(image_id, FINAL)
        try:
            image = datastore.image(image_id)
            if bundle.takes_prompts:
                _check_size(largest_structure(datastore, image_id, image, label, info))
                unjudged = _unjudged_ids(info, served)
                if unjudged and not unjudged.isdisjoint(label_ids(datastore, image_id, image, label, info)):
                    raise RequestError(400, "its label has voxels that nobody has judged")
            elif "model" not in info:
                _check_ids(bundle, served, label_ids(datastore, image_id, image, label, info))
            elif info["model"] != bundle.name:
                _check_names(bundle, served, info)
                continue
            else:
                _check_numbers(bundle, info)
            grid = read_grid(image)
            if grid.channels != bundle.channels:
                raise RequestError(400, f"it has {grid.channels} channel(s), expected {bundle.channels}")
            problem = agreement_problem(read_grid(label), grid)  # a series may have grown since
            if problem:
                raise RequestError(400, f"its label's {problem}")
            items[image_id] = {"image": str(image), "label": str(label)}
        except RequestError as error:
            logger.warning("training goes without %s: %s", image_id, error.message)
            left_out[image_id] = error.message
    return items, left_out


def describe_absent(bundle: Bundle, images: Collection[str], datastore: StudiesFolder) -> str:
    """Which of the bundle's structures labels do not show, see `rep3d.data.submissions.describe_absent`."""
    lacking: dict[str, list[str]] = {}
    for image in images:
        info = datastore.fixed_label(image, FINAL)[1]
        absent = info.get(ABSENT, info.get(UNNAMED, ()))  # the latter of labels that earlier code stored
        known = {name.casefold() for name in info.get("label_names", bundle.labels)}
        for name in (*absent, *(name for name in bundle.labels if name.casefold() not in known)):
            lacking.setdefault(name, []).append(image)
    lacking.pop(IGNORE, None)
    return submissions.describe_absent(lacking, len(images))


def describe_exchanged(images: Iterable[str], datastore: StudiesFolder) -> str:
    """Which images are other files now, see `rep3d.data.submissions.describe_exchanged`."""
    exchanged = []
    for image in images:
        labelled = datastore.fixed_label(image, FINAL)[1].get(LABELLED)  # not of what earlier code stored
        if labelled and labelled != datastore.checksum(image):
            exchanged.append(image)
    return submissions.describe_exchanged(exchanged)


def describe(left_out: Mapping[str, str]) -> str:
    """How many images are left out, and why the first of them."""
    reasons = [f"{case}: {reason}" for case, reason in left_out.items()]
    return f"left out {len(left_out)} image(s): {submissions.first_of(reasons)}"


def _check_size(voxels: int) -> None:
    if voxels < MIN_VOXELS:
        raise RequestError(400, f"its label has no structure of at least {MIN_VOXELS} voxels")


def _unjudged_ids(info: Mapping[str, Any], served: Sequence[Bundle]) -> set[int]:
    """The ids of voxels that nobody has judged; of a label that was put there by hand, those of all bundles."""
    named = [info["label_names"]] if "label_names" in info else [bundle.labels for bundle in served]
    return {labels[IGNORE] for labels in named if IGNORE in labels}


def _check_names(bundle: Bundle, served: Iterable[Bundle], info: Mapping[str, Any]) -> None:
    """Whether a label with another model has none of this bundle's segments, or is of another one that is served."""
    model, names = info["model"], info.get("label_names", {})
    own = {name.casefold() for name in bundle.labels}
    if model not in {one.name for one in served} and not own.isdisjoint(map(str.casefold, names)):
        raise RequestError(400, f"its segments are {', '.join(names)}, and so it counts as a label of {model!r}")


def _check_numbers(bundle: Bundle, info: Mapping[str, Any]) -> None:
    """Whether the bundle numbers the structures of a label as it did when that was submitted."""
    now = {name.casefold(): index for name, index in bundle.labels.items()}
    others = {name: index for name, index in info.get("label_names", {}).items() if now.get(name.casefold()) != index}
    if others:
        raise RequestError(400, f"its label has other ids than those of the bundle by now, {others}: submit it again")


def _check_ids(bundle: Bundle, served: Sequence[Bundle], ids: Sequence[int]) -> None:
    """Whether a label that was put there by hand is of this bundle, and certainly of no other that is served."""
    fitting = bundles_with(ids, served)
    if bundle.name not in fitting:
        raise RequestError(400, f"its label was put there by hand, with ids of another model: {list(ids)}")
    if len(fitting) > 1:
        models = ", ".join(fitting)
        raise RequestError(400, f"its label was put there by hand, and may be of {models}: serve one, or submit it")
