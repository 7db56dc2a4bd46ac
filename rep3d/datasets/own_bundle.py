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
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from rep3d.console.errors import describe
from rep3d.data import splits
from rep3d.data.checks import check_pair
from rep3d.data.layouts import COPY_OF, FILE, one_or_all
from rep3d.data.memory import file_key
from rep3d.data.regions import IGNORE, check_judging
from rep3d.datasets.bundle_readme import OWN
from rep3d.datasets.downloads import Scan
from rep3d.datasets.fingerprint import CaseFacts, summary, write_fingerprint
from rep3d.datasets.machine import Machine
from rep3d.datasets.planning import Plan, Schedule, plan_bundle, wrong_spacings
from rep3d.datasets.preparation import CHECKED, check_pairs
from rep3d.datasets.rendering import check_plain_names, merge, read_fragment, render_file
from rep3d.datasets.sources import IDS, NO_LABELS, Source, ToldLabels, choose_channels, read_source
from rep3d.files import read_json, whole_file, write_json, write_text
from rep3d.io.geometry import Geometry, VolumeError
from rep3d.io.nifti import is_untouched, label_image, read_volume
from rep3d.locks import FolderLocks
from rep3d.shipped import TRAINED
from rep3d.training.settings import keep_settings, other_settings

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
DECIDED = "decided.json"  # in data: what was written last, to tell what a person has changed since; options of `new`
LABELS, STAGED = "labels", ".labels"  # in data: label maps with other ids than those of the source; before they count
SHOWN = 5  # problems, in a message


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
    kept: Sequence[str]  # keys of NAME.json that a person has changed


class Labels(NamedTuple):
    """What the ids of label maps become.

    Args:
        names: of the ids 0, 1, ... of the bundle.
        ids: those of the label maps, in the same order.
        regions: unions of them, by name.
        class_order: for each region the id that label maps show it by.
        ignored: the id of voxels that nobody has judged.
    """

    names: list[str]
    ids: list[int]
    regions: dict[str, list[int]] | None = None
    class_order: list[int] | None = None
    ignored: int | None = None

    @property
    def all_ids(self) -> list[int]:
        """Of the label maps, in the order of the bundle's; that of voxels that nobody has judged comes last."""
        return self.ids if self.ignored is None else [*self.ids, self.ignored]

    @property
    def new_ids(self) -> dict[int, int]:
        """What those of the label maps become."""
        return {old: new for new, old in enumerate(self.all_ids)}

    @property
    def have_holes(self) -> bool:
        """Whether the label maps are to be numbered anew."""
        return any(old != new for old, new in self.new_ids.items())

    def options(self) -> dict[str, Any]:
        """Those of the data set's file, in the bundle's ids."""
        new = {old: i for i, old in enumerate(self.ids)}
        found: dict[str, Any] = {}
        if self.regions is not None and self.class_order is not None:
            found["regions"] = {name: [new[i] for i in ids] for name, ids in self.regions.items()}
            found["regions_class_order"] = [new[i] for i in self.class_order]
        return found if self.ignored is None else found | {"ignored_label": len(self.ids)}


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
) -> NewBundle:
    """Make a bundle, or make it anew with what a person has changed in its NAME.json.

    Args:
        name: of the bundle.
        source: the folder of the data set; nothing is written there.
        bundle_dir: receives the bundle, in a folder of its name.
        root: the folder that holds our configs.
        machine: where it will train.
        modality: CT or MR, where it is known.
        channels: which of several images of a case; without, all of them.
        label_names: of the ids 1, 2, ..., where the data set has no file that tells them.
        schedule: how long it is to train, where that was measured.

    Raises:
        FileNotFoundError: there is no such source.
        FileExistsError: there is something else of that name.
        ValueError: the name, the source's place or layout, or most cases cannot be used; a label, region or channel is
            called as a config would not take for a name; splits.json is a person's and names a case that there is no
            longer; it trains just now; or as `plan_bundle`.
    """
    folder = bundle_dir / name
    _check_name(name, folder, source, root)
    shutil.rmtree(folder / "data" / STAGED, ignore_errors=True)
    found = read_source(source, channels)
    scans, problems = choose_channels(found, channels)
    told = _with_names(found.labels, label_names) if label_names else found.labels
    _check_names_of(source, told, (channels or found.channels) if len(found.channels) > 1 else ())
    memory = folder / "data" / CHECKED
    memory.parent.mkdir(parents=True, exist_ok=True)
    scans, of_ids = _in_common_ids(scans, found, folder / "data" / STAGED)
    problems |= of_ids
    facts, of_files = check_pairs(scans, _count_ids(told), memory, None, told and told.ignored)
    problems |= of_files
    channel_names = _channel_names(facts, channels or found.channels, bool(found.told))
    are_named = len(channel_names) > 1 or len(found.channels) > 1  # or the only one that there is
    others = _other_channels(facts, channel_names, {scan.case: scan.images[0] for scan in scans})
    others |= _other_labels(facts, told, {scan.case: scan.label for scan in scans})
    problems |= others
    facts = [fact for fact in facts if fact.case not in others]
    if facts:
        of_spacings = wrong_spacings(facts)
        problems |= of_spacings
        facts = [fact for fact in facts if fact.case not in of_spacings]
    if not facts:
        raise ValueError(f"source {str(source)!r}: no case can be used: {_some(problems)}")
    if len(problems) > len(facts):
        count = f"{len(problems)} of {len(problems) + len(facts)} cases cannot be used, expected half of them at most"
        raise ValueError(f"source {str(source)!r}: {count}; mend them, or take them out: {_some(problems)}")
    labels, notes = _read_labels(source, facts, told)
    options = labels.options()
    try:
        check_judging(labels.names, *map(options.get, ("regions", "regions_class_order", "ignored_label")))
    except ValueError as error:
        raise ValueError(f"{source / FILE}: {error}") from None
    facts = [fact._replace(voxels=_counts(fact, labels.ids)) for fact in facts]
    patient_of = {case.name: case.patient for case in found.cases}
    good = {fact.case for fact in facts}
    own_splits = _own_splits(folder / "data", good)
    plan = plan_bundle(
        facts,
        machine,
        patients=len({patient_of[case] for case in good}),
        told=_told(found, channel_names),
        modality=modality,
        schedule=schedule,
        spacing=_own_spacing(folder, name),
        own_splits=own_splits,
    )
    label_of = {case.name: case.label for case in found.cases if case.label is not None}
    keys = {case.name: case.label_key for case in found.cases if case.label_key}
    notes += [*found.notes, *_unlabelled(found), *_untouched([label_of[case] for case in sorted(good)])]
    with _while_nothing_trains(folder):
        weights = keep_settings(folder)
        kept = _write_dataset_file(
            folder, name, _dataset_file(name, source, channel_names, are_named, labels, plan), labels.ids
        )
        files = render_file(root, folder / f"{name}.json")  # before the data change: it may refuse what a person wrote
        good_scans = [scan for scan in scans if scan.case in good]
        names = read_json(folder / f"{name}.json")["common"]["label_names"]  # a person may have changed them
        _write_data(folder / "data", name, good_scans, label_of, keys, labels._replace(names=names))
        if own_splits:
            notes.append(f"data/{splits.FILE} is yours, and stays")
        else:
            _write_splits(folder / "data", [scan.case for scan in good_scans], plan.folds, patient_of)
        if found.split and not own_splits:
            notes.append(
                f"the source's own split is not used, {found.split}: cases that it holds out train here, and cases of "
                f"one patient may stand in both parts; data/{splits.FILE} is yours to edit"
            )
        notes += _unjudged(folder / "data" / splits.FILE, facts, labels.names)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / path, text)
        notes += _of_earlier_trainings(folder, weights)
    write_fingerprint(facts, labels.names, folder / "data")
    made = NewBundle(folder, found.layout, len(facts), channel_names, labels, plan, notes, problems, kept)
    write_text(folder / "data/report.md", f"{report(made)}\n\n{summary(facts, labels.names)}")
    return made


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
    lines += [f"{key} is yours, from {made.folder.name}.json" for key in made.kept]
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


def _with_names(told: ToldLabels | None, names: Sequence[str]) -> ToldLabels:
    """What the data set's file tells of its labels, with the names that the user gives."""
    check_plain_names("labels", names)
    if len({*names, "background"}) <= len(names) or not all(names):
        raise ValueError(f"labels are {', '.join(names)}, expected a name for each of the ids 1, 2, ... once")
    given = ToldLabels(dict(enumerate(["background", *names])), *(told or ToldLabels({}))[1:])
    needed = {i for ids in (given.regions or {}).values() for i in ids}
    if not needed <= given.names.keys() or given.ignored in given.names:
        raise ValueError(f"labels are {', '.join(names)}, expected names of the ids {sorted(needed)} of the regions")
    return given


def _check_names_of(source: Path, told: ToldLabels | None, channels: Sequence[str]) -> None:
    """Refuse names that a config would take for something else."""
    where = source / FILE if (source / FILE).is_file() else source
    if told is not None:
        check_plain_names(where, [*told.names.values(), *(told.regions or ())])
    check_plain_names(where, channels)


def _count_ids(told: ToldLabels | None) -> int:
    """How many ids label maps may hold, from 0."""
    return len(IDS) if told is None else max([*told.names, told.ignored or 0]) + 1


def _read_labels(source: Path, facts: Sequence[CaseFacts], told: ToldLabels | None) -> tuple[Labels, list[str]]:
    """The labels, and what somebody should know of them.

    Raises:
        ValueError: nothing is labelled.
    """
    cases_with = np.array([np.array(fact.voxels) > 0 for fact in facts]).sum(axis=0)
    ids = sorted(told.names) if told else [0, *(i for i in np.flatnonzero(cases_with).tolist() if i)]
    if not cases_with[ids[1:]].any():
        raise ValueError(f"source {str(source)!r}: all label maps are empty: {NO_LABELS}")
    if told:
        labels = Labels([told.names[i] for i in ids], ids, *told[1:])
    else:
        labels = Labels(["background", *(f"label {i}" for i in ids[1:])], ids)
    notes = []
    if not told:
        notes.append("no file tells the labels' names: give them with --labels, in the order of their ids")
    for i, name in zip(ids[1:], labels.names[1:], strict=True):
        if cases_with[i] == 0:
            notes.append(f"label {name!r} occurs in no case: nothing can be learned of it")
        elif cases_with[i] == 1 and len(facts) > 1:
            (case,) = (fact.case for fact in facts if fact.voxels[i])
            notes.append(f"label {name!r} occurs in one case, {case}: it can be learned or judged, not both")
    if labels.have_holes:
        became = ", ".join(f"{old} becomes {new}" for old, new in labels.new_ids.items() if old != new)
        notes.append(f"the label ids have holes, and a bundle's have none: {became}")
    return labels, notes


def _unjudged(path: Path, facts: Sequence[CaseFacts], names: Sequence[str]) -> list[str]:
    """Which labels of several cases no validation case of some fold shows."""
    voxels = {fact.case: fact.voxels for fact in facts}
    validation = [split["val"] for split in splits.read_splits(path, voxels)]
    told = []
    for i, name in enumerate(names[1:], 1):
        showing = {case for case in voxels if voxels[case][i]}
        folds = [str(fold) for fold, cases in enumerate(validation) if cases and not showing & {*cases}]
        if len(showing) > 1 and folds:
            told.append(f"{name!r} in fold {', '.join(folds)}")
    return [f"labels that no validation case shows, so that none judges them: {'; '.join(told)}"] if told else []


def _counts(fact: CaseFacts, ids: Sequence[int]) -> list[int]:
    """Voxels of the bundle's ids."""
    return [fact.voxels[i] for i in ids]


def _channel_names(facts: Sequence[CaseFacts], known: Sequence[str], is_told: bool) -> Sequence[str]:
    """The names of the channels. Where nobody tells them, most files say how many there are."""
    counts = Counter(fact.channels for fact in facts)
    if is_told or len(known) > 1 or not counts:
        return known
    ((count, _),) = counts.most_common(1)
    return known if count == len(known) else [f"channel {i}" for i in range(count)]


def _other_channels(
    facts: Sequence[CaseFacts], names: Sequence[str], image_of: Mapping[str, Path]
) -> dict[str, list[str]]:
    """The cases that have more or fewer channels."""
    expected = f"expected {len(names)}: {', '.join(names)}"
    return {
        fact.case: [f"{image_of[fact.case]}: {fact.channels} channel(s) of an image, {expected}"]
        for fact in facts
        if fact.channels != len(names)
    }


def _other_labels(
    facts: Sequence[CaseFacts], told: ToldLabels | None, label_of: Mapping[str, Path | None]
) -> dict[str, list[str]]:
    """The cases with ids that no label has, where the data set's file tells the labels."""
    if told is None:
        return {}
    known = {*told.names, told.ignored}
    wrong = {fact.case: [i for i, n in enumerate(fact.voxels) if n and i not in known] for fact in facts}
    expected = f"expected those of {', '.join(told.names.values())}"
    return {case: [f"{label_of[case]}: label value(s) {ids}, {expected}"] for case, ids in wrong.items() if ids}


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


def _untouched(labels: Sequence[Path]) -> list[str]:
    found = [path for path in labels if is_untouched(path)]
    why = "nobody has changed them, and they train and judge as truth"
    return [f"{len(found)} label map(s) are as `rep3d predict` wrote them, such as {found[0]}: {why}"] if found else []


def _some(problems: Mapping[str, Sequence[str]]) -> str:
    texts = [text for texts in problems.values() for text in texts]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more


# --- what is written


def _write_data(
    folder: Path,
    name: str,
    scans: Sequence[Scan],
    label_of: Mapping[str, Path],
    keys: Mapping[str, str],
    labels: Labels,
) -> None:
    """Write dataset.json.

    Where label maps are copied there is none meanwhile, so that nothing trains on those of two numberings.

    Args:
        keys: of files of label_of, as they were when what their ids mean was read.
    """
    if labels.have_holes or any(scan.label != label_of[scan.case] for scan in scans):
        (folder / FILE).unlink(missing_ok=True)
    training = []
    for scan in scans:
        label, source = scan.label, label_of[scan.case]
        key = keys.get(scan.case) or file_key(source)
        if labels.have_holes:
            voxels, geometry = read_volume(str(label))
            label = _renumbered(voxels, geometry, labels.new_ids, folder / LABELS, scan.case)
        elif label != source:
            (folder / LABELS).mkdir(exist_ok=True)
            label = Path(str(label)).replace(folder / LABELS / f"{scan.case}.nii.gz")
        image = one_or_all(list(map(os.path.abspath, scan.images)))
        entry = {"image": image, "label": os.path.abspath(str(label)), "case": scan.case}
        if scan.case in keys or label != source:
            entry[COPY_OF] = key
        training.append(entry)
    names = {str(i): text for i, text in enumerate([*labels.names, *([] if labels.ignored is None else [IGNORE])])}
    write_json(folder / FILE, {"name": name, "labels": names, "training": training})
    _remove_copies(folder, {entry["label"] for entry in training})


def _own_splits(folder: Path, cases: Collection[str]) -> list[splits.Split]:
    """Those of splits.json where a person wrote it; none of ours.

    Raises:
        ValueError: it is no list of splits, or names a case that there is no longer.
    """
    path = folder / splits.FILE
    if not path.is_file() or read_fragment(path) in _written(folder, "splits"):
        return []
    return splits.read_splits(path, cases)


def _write_splits(folder: Path, cases: Sequence[str], count: int, patient_of: Mapping[str, str]) -> None:
    one = [{"train": list(cases), "val": []}]
    folds = splits.make_folds(cases, count, patients=patient_of) if count > 1 else one
    with _remembered(folder, "splits", folds):
        write_json(folder / splits.FILE, folds)


def _remove_copies(folder: Path, used: Collection[object]) -> None:
    """Of label maps that a data set had before."""
    shutil.rmtree(folder / STAGED, ignore_errors=True)
    for path in (folder / LABELS).glob("*.nii.gz"):
        if os.path.abspath(path) not in used:
            path.unlink()


def _in_common_ids(scans: Sequence[Scan], source: Source, folder: Path) -> tuple[list[Scan], dict[str, list[str]]]:
    """The scans, with copies of the label maps that have ids of their own; and what is wrong with these, by case."""
    ids_of = {case.name: case.ids for case in source.cases if case.ids is not None}
    found, problems = [], {}
    for scan in scans:
        ids, label = ids_of.get(scan.case), scan.label
        if ids is not None and any(old != new for old, new in ids.items()):
            try:
                check_pair({"image": list(map(str, scan.images)), "label": str(label)}, None)
                voxels, geometry = read_volume(str(label))
            except VolumeError as error:
                problems[scan.case] = [describe(error)]
                continue
            others = sorted({*np.unique(voxels).tolist()} - {0, *ids})
            if others:
                problems[scan.case] = [f"{label}: label value(s) {others}, which no segment of it has: {sorted(ids)}"]
                continue
            label = _renumbered(voxels, geometry, ids, folder, scan.case)
        found.append(scan._replace(label=label))
    return found, problems


def _renumbered(voxels: np.ndarray, geometry: Geometry, new_ids: Mapping[int, int], folder: Path, case: str) -> Path:
    """A copy of a label map with other ids, on the same grid."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{case}.nii.gz"
    table = np.zeros(len(IDS), np.uint8)
    table[list(new_ids)] = list(new_ids.values())
    with whole_file(path) as temporary:
        nib.save(label_image(table[voxels.astype(np.uint8)], geometry), temporary)
    return path


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


def _write_dataset_file(folder: Path, name: str, decided: dict[str, Any], ids: Sequence[int]) -> list[str]:
    """Write NAME.json; the keys that a person has changed since it was written last, and that stay so.

    Raises:
        ValueError: names of labels are a person's, and do not fit the ids.
    """
    path, changes = folder / f"{name}.json", _own_changes(folder, name)
    content = merge(decided, changes)
    _check_sections(path, content, decided)
    names = content["common"]["label_names"]
    if names != decided["common"]["label_names"]:
        _check_own_names(path, names, ids, read_json(folder / "data" / DECIDED).get("named", {}))
    with _remembered(folder / "data", "dataset", decided, named={"ids": list(ids), "names": names}):
        write_json(path, content)
    return list(_keys(changes))


@contextmanager
def _remembered(folder: Path, key: str, content: object, **more: object) -> Iterator[None]:
    """Keep what is written in the context for `_written`, and until then also what was written before."""
    memory, earlier = read_json(folder / DECIDED) | {key: content} | more, f"{key} before"
    write_json(folder / DECIDED, memory | {earlier: _written(folder, key)})
    yield
    memory.pop(earlier, None)
    write_json(folder / DECIDED, memory)


def _written(folder: Path, key: str) -> list[Any]:
    """What stands in a file that no person has changed: of several, where the command was killed, one."""
    memory = read_json(folder / DECIDED)
    return [*memory.get(f"{key} before", []), *([memory[key]] if key in memory else [])]


def _own_changes(folder: Path, name: str) -> dict[str, Any]:
    """What a person has changed in NAME.json since it was written last."""
    path = folder / f"{name}.json"
    return _changes(read_json(path), _written(folder / "data", "dataset")) if path.is_file() else {}


def _own_spacing(folder: Path, name: str) -> list[float] | None:
    """The spacing that a person wrote into NAME.json.

    Raises:
        ValueError: it is none.
    """
    common = _own_changes(folder, name).get("common")
    spacing = common.get("spacing") if isinstance(common, dict) else None
    if spacing is None:
        return None
    if (
        not isinstance(spacing, list)
        or len(spacing) != 3
        or not all(type(i) in (int, float) and i > 0 for i in spacing)
    ):
        told = json.dumps(spacing)
        raise ValueError(f"{folder / f'{name}.json'}: spacing is {told}, expected three numbers above 0, in mm")
    return spacing


def _check_sections(path: Path, content: Mapping[str, Any], decided: Mapping[str, Any]) -> None:
    """Refuse what a person wrote in the place of a section, or of the names of labels."""
    for name, section in decided.items():
        if isinstance(section, dict) and not isinstance(content[name], dict):
            raise ValueError(f"{path}: {name} is {json.dumps(content[name])}, expected an object")
    names = content["common"]["label_names"]
    if not isinstance(names, list):
        raise ValueError(f"{path}: label_names is {json.dumps(names)}, expected a list")


def _check_own_names(path: Path, names: Sequence[str], ids: Sequence[int], before: Mapping[str, Any]) -> None:
    """Refuse names that a person gave to other ids than the source has by now."""
    if len(names) != len(ids) or (before.get("names") == names and before.get("ids") != ids):
        were = f", were {before['ids']}" if before else ""
        raise ValueError(
            f"{path}: label_names is {json.dumps(names)}, yours, and the ids of the source are {list(ids)}{were}: "
            "expected a name for each, or no label_names"
        )


def _changes(now: Mapping[str, Any], written: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are as in nothing that was written."""
    found = {}
    for key, value in now.items():
        before = [one[key] for one in written if key in one]
        sections = [one for one in before if isinstance(one, Mapping)]
        if isinstance(value, dict) and sections:
            if nested := _changes(value, sections):
                found[key] = nested
        elif value not in before:
            found[key] = value
    return found


def _keys(changes: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [
        key
        for name, value in changes.items()
        for key in (_keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"])
    ]


# --- options of `rep3d new`


def read_options(folder: Path) -> dict[str, str]:
    """What `rep3d new` was told for a bundle, by option."""
    return read_json(folder / "data" / DECIDED).get("options", {})


def write_options(folder: Path, options: Mapping[str, str]) -> None:
    """Remember what `rep3d new` was told."""
    memory = folder / "data" / DECIDED
    write_json(memory, {**read_json(memory), "options": dict(options)})
