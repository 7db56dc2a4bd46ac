"""A bundle for a folder of somebody's own scans and labels.

    NAME/NAME.json            what was decided, in the form of configs/datasets; what a person changes there stays
    NAME/configs, docs, ...   the bundle, rendered from it
    NAME/data                 dataset.json with the places of the files, splits.json, and what was found in them

No scan is copied. Label maps are, where their ids have holes: a network's classes are numbered without.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rep3d.data import splits
from rep3d.data.dataset_json import FILE
from rep3d.data.regions import IGNORE
from rep3d.datasets.bundle_readme import OWN
from rep3d.datasets.fingerprint import summary, write_fingerprint
from rep3d.datasets.machine import Machine
from rep3d.datasets.own_cases import Cases, read_cases
from rep3d.datasets.own_changes import OwnKeys, read_own_folds, read_own_spacing, write_dataset_file
from rep3d.datasets.own_data import check_unchanged, write_data
from rep3d.datasets.own_labels import Labels, read_labels, with_names
from rep3d.datasets.own_splits import own_split_notes, read_own_splits, unshown, write_splits
from rep3d.datasets.planning import Plan, Schedule, plan_bundle
from rep3d.datasets.rendering import check_plain_names, render_file
from rep3d.datasets.sources import Source, ToldLabels, read_source
from rep3d.files import read_json, write_text
from rep3d.io.nifti import is_untouched
from rep3d.locks import FolderLocks
from rep3d.shipped import TRAINED
from rep3d.training.settings import keep_settings, other_settings

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


class NewBundle(NamedTuple):
    """What `new_bundle` made."""

    folder: Path
    layout: str
    cases: int
    channel_names: Sequence[str]
    labels: Labels
    plan: Plan
    notes: Sequence[str]  # what somebody should know
    problems: Mapping[str, Sequence[str]]  # by case; these were left out
    kept: Mapping[str, Any]  # what a person has changed in NAME.json, by key
    removed: Sequence[str]  # those that a person has taken out, and that are decided anew


def new_bundle(
    name: str,
    source: Path,
    bundle_dir: Path,
    *,
    root: Path,
    machine: Machine,
    modality: str | None = None,
    channels: Sequence[str] = (),
    label_names: Sequence[str] | None = None,
    schedule: Schedule | None = None,
    removed: Sequence[str] = (),
) -> NewBundle:
    """Make a bundle, or make it anew with what a person has changed in its NAME.json.

    Args:
        name: of the bundle.
        source: the folder of the data set; nothing is written there.
        bundle_dir: receives the bundle, in a folder of its name.
        root: the folder that holds our configs.
        machine: where it will train.
        modality: CT or MR, where it is known; as `plan_bundle`.
        channels: which of several images of a case; without, all of them.
        label_names: of the ids 1, 2, ..., where the data set has no file that tells them.
        schedule: how long it is to train, where that was measured.
        removed: keys of NAME.json that a person had taken out before, for the report.

    Raises:
        FileNotFoundError: there is no such source.
        FileExistsError: there is something else of that name.
        ValueError: the name, the source's place or layout, or most cases cannot be used; a label, region or channel is
            called as a config would not take for a name; splits.json is a person's and names a case that there is no
            longer; data/dataset.json was changed; NAME.json has a person's value that it cannot have; it trains just
            now; or as `plan_bundle`.
    """
    folder = bundle_dir / name
    _check_name(name, folder, source, root)
    check_unchanged(folder / "data", name)
    found = read_source(source, channels)
    told = with_names(found.labels, label_names) if label_names else found.labels
    _check_names_of(source, told, (channels or found.channels) if len(found.channels) > 1 else ())
    spacing = read_own_spacing(folder, name)
    cases = read_cases(source, found, told, channels, folder / "data", spacing)
    patient_of = {case.name: case.patient for case in found.cases}
    labels, notes = read_labels(source, cases.facts, told, patient_of)
    facts = [fact._replace(voxels=[fact.voxels[i] for i in labels.ids]) for fact in cases.facts]
    channel_names = cases.channel_names
    are_named = len(channel_names) > 1 or len(found.channels) > 1  # or the only one that there is
    good = [fact.case for fact in facts]
    patients = len({patient_of[case] for case in good})
    own_splits = read_own_splits(folder / "data", good)
    own_folds = read_own_folds(folder, name, patients, len(own_splits))
    plan = plan_bundle(
        facts,
        machine,
        patients=patients,
        told=_told(found, channel_names),
        modality=modality,
        schedule=schedule,
        spacing=spacing,
        folds=own_folds,
        own_splits=own_splits,
    )
    notes += [f"{fact.case}: {fact.note}" for fact in facts if fact.note]
    notes += [*found.notes, *cases.notes, *_unlabelled(found), *_untouched(found, good)]
    decided = _dataset_file(name, source, channel_names, are_named, labels, plan)
    folds = own_folds or plan.folds
    own, of_writing = _write_bundle(
        root, folder, decided, found, cases._replace(facts=facts), labels, own_splits, folds
    )
    notes += of_writing
    write_fingerprint(facts, labels.names, folder / "data")
    made = NewBundle(
        folder,
        found.layout,
        len(facts),
        channel_names,
        labels,
        plan,
        notes,
        cases.problems,
        own.kept,
        [*removed, *own.removed],
    )
    write_text(folder / "data/report.md", f"{report(made)}\n\n{summary(facts, labels.names)}")
    return made


def _write_bundle(
    root: Path,
    folder: Path,
    decided: dict[str, Any],
    found: Source,
    cases: Cases,
    labels: Labels,
    own_splits: Sequence[splits.Split],
    folds: int,
) -> tuple[OwnKeys, list[str]]:
    """Write all files but those of what was found in the scans.

    Args:
        decided: what NAME.json says, without what a person has changed there.
        cases: with their facts by the bundle's ids.
        own_splits: those of a person; empty: as many folds are written.

    Returns:
        What a person has changed, and what somebody should know.
    """
    name, data, facts = folder.name, folder / "data", cases.facts
    patient_of = {case.name: case.patient for case in found.cases}
    with _while_nothing_trains(folder):
        weights = keep_settings(folder)
        own = write_dataset_file(folder, name, decided, labels.ids)
        files = render_file(root, folder / f"{name}.json")  # before the data change: it may refuse what a person wrote
        names = read_json(folder / f"{name}.json")["common"]["label_names"]  # a person may have changed them
        write_data(data, name, cases.scans, found.cases, labels._replace(names=names))
        notes = [*own.notes]
        if own_splits:
            notes += own_split_notes(own_splits, [fact.case for fact in facts], patient_of)
        else:
            write_splits(data, [scan.case for scan in cases.scans], folds, patient_of)
            notes += _unused_split(found)
        notes += unshown(data / splits.FILE, facts, labels.names)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / path, text)
        notes += _of_earlier_trainings(folder, weights)
    return own, notes


def report(made: NewBundle) -> str:
    """What was found and decided, a line each, in Markdown."""
    named, options = dict(enumerate(made.labels.names)), made.labels.options()
    if "ignored_label" in options:
        named[options["ignored_label"]] = f"{IGNORE}: counts neither way"
    labels = ", ".join(f"{i} {name}" for i, name in named.items())
    lines = [f"{made.cases} case(s): {made.layout}", f"labels: {labels}"]
    lines += [f"region {name}: {', '.join(named[i] for i in ids)}" for name, ids in options.get("regions", {}).items()]
    if len(made.channel_names) > 1:
        lines.append(f"channels: {', '.join(f'{i} {name}' for i, name in enumerate(made.channel_names))}")
    lines += [f"{decision.what}: {decision.why}" for decision in made.plan.decisions]
    lines += [f"{key} is {json.dumps(value)}, yours, from {made.folder.name}.json" for key, value in made.kept.items()]
    anew = "is decided anew: write null there to do without it, where that can be"
    lines += [f"{key} was removed from {made.folder.name}.json, and {anew}" for key in made.removed]
    parts = [f"# {made.folder.name}", "\n".join(f"- {line}" for line in lines)]
    if made.notes:
        parts.append("## Please note\n" + "\n".join(f"- {note}" for note in made.notes))
    if made.problems:
        told = [f"- {text}" for texts in made.problems.values() for text in texts]
        parts.append(f"## Left out: {len(made.problems)} case(s)\n" + "\n".join(told))
    return "\n\n".join(parts)


@contextmanager
def _while_nothing_trains(folder: Path) -> Iterator[None]:
    """Keep trainings in a bundle's folder from starting meanwhile: they read the data all along.

    Raises:
        ValueError: there is one.
    """
    trained, scored = (folder / TRAINED).parent, folder / "eval"
    folders = [trained, *trained.glob("fold*"), *(path / "tensorboard" for path in (scored, *scored.glob("fold*")))]
    try:
        locks = FolderLocks([path for path in folders if path.is_dir()], "training")
    except ValueError as error:
        raise ValueError(f"{folder.name} is not made anew while it trains: {error}") from None
    try:
        yield
    finally:
        locks.release()


def _check_name(name: str, folder: Path, source: Path, root: Path) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(f"name is {name!r}, expected letters, digits, _, . and -")
    if (root / "configs/datasets" / f"{name}.json").is_file():
        raise ValueError(f"name is {name!r}, which is a bundle that comes with the package: choose another")
    whole, places = source.resolve(), [folder.resolve(), (folder / "data").resolve()]  # the latter may be a link
    if any(whole.is_relative_to(place) for place in places):
        raise ValueError(
            f"source is {str(source)!r}, which lies in the bundle's folder {str(folder)!r}, where files are replaced: "
            "move it, or choose another name"
        )
    if any(place.is_relative_to(whole) for place in places):
        raise ValueError(
            f"bundle_dir is {str(folder.parent)!r}, which lies in the source {str(source)!r}, where nothing is to be "
            "written: give another --bundle_dir"
        )
    own = folder / f"{name}.json"
    if own.is_file():
        data = read_json(own).get("data")
        before = data.get("source") if isinstance(data, Mapping) else None
        if before != os.path.abspath(source):
            raise FileExistsError(f"{folder} is of the source {before!r}, got {str(source)!r}: choose another name")
    elif folder.exists() and {path.name for path in folder.iterdir()} - {"data"}:
        raise FileExistsError(f"{folder} is there already, and no bundle of `rep3d new`: choose another name")


def _check_names_of(source: Path, told: ToldLabels | None, channels: Sequence[str]) -> None:
    """Refuse names that a config would take for something else."""
    where = source / FILE if (source / FILE).is_file() else source
    if told is not None:
        check_plain_names(where, [*told.names.values(), *(told.regions or ())])
    check_plain_names(where, channels)


def _told(source: Source, channel_names: Sequence[str]) -> Sequence[str]:
    """What the data set's own file says of the modality."""
    named = set(channel_names) <= set(source.told)
    return channel_names if named or (source.told and len(channel_names) > 1) else source.told


def _of_earlier_trainings(folder: Path, weights: Sequence[Path]) -> list[str]:
    """Which weights were trained otherwise than the bundle is now, and segment so as before."""
    return [
        f"{path.relative_to(folder)} was trained with other {', '.join(others)}, and goes on to segment with those; "
        "train anew for what stands here"
        for path in weights
        if path.name == "model.pt" and (others := other_settings(path, folder))
    ]


def _unlabelled(source: Source) -> list[str]:
    bare = [case.name for case in source.cases if case.label is None]
    return [f"{len(bare)} image(s) have no label and train nothing, such as {bare[0]}"] if bare else []


def _untouched(source: Source, cases: Collection[str]) -> list[str]:
    labels = sorted((case.name, case.label) for case in source.cases if case.name in cases and case.label is not None)
    found = [path for _, path in labels if is_untouched(path)]
    why = "nobody has changed them, and they train and judge as truth"
    return [f"{len(found)} label map(s) are as `rep3d predict` wrote them, such as {found[0]}: {why}"] if found else []


def _unused_split(source: Source) -> list[str]:
    told = (
        f"the source's own split is not used, {source.split}: cases that it holds out train here, and cases of one "
        f"patient may stand in both parts; data/{splits.FILE} is yours to edit"
    )
    return [told] if source.split else []


def _dataset_file(
    name: str, source: Path, channel_names: Sequence[str], are_named: bool, labels: Labels, plan: Plan
) -> dict[str, Any]:
    """What NAME.json says, without what a person has changed there."""
    without: dict[str, Any] = {} if plan.val_interval else {"validate": {"dataset": {"data": []}}}
    organs = ", ".join(labels.regions or labels.names[1:])
    return {
        "network": plan.network,
        "recipe": list(plan.recipes),
        "common": {
            **({"channel_names": list(channel_names)} if are_named else {}),
            "label_names": list(labels.names),
            **labels.options(),
            "spacing": list(plan.spacing),
            "intensity_window": plan.intensity_window,
            "patch_size": list(plan.patch_size),
            "sw_batch_size": plan.sw_batch_size,
        },
        "train": {
            "epochs": plan.epochs,
            **({} if plan.steps_per_epoch is None else {"steps_per_epoch": plan.steps_per_epoch}),
            "val_interval": plan.val_interval,
            "batch_size": plan.batch_size,
            "learning_rate": plan.learning_rate,
            "cache_num": plan.cache_num,
            "num_workers": plan.num_workers,
            **without,
        },
        "data": {
            "layout": OWN,
            "source": os.path.abspath(source),
            "channel": ",".join(channel_names),
            "split": dict(plan.sizes),
            "folds": plan.folds,
        },
        "metadata": {
            "name": name,
            "task": f"Segmentation of {organs} in {plan.modality}",
            "modality": plan.modality,
            "data_source": "own data",
        },
    }
