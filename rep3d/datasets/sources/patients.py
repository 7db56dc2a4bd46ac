"""A folder for each patient, as BIDS has them, or the files of all beside each other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rep3d.data.cases import case_name, is_nifti, without_label_word
from rep3d.data.channels import case_and_number
from rep3d.data.layouts import what_else
from rep3d.datasets.sources.cases import IMAGE, Case, Source, both_files, channels_of, one_channel, patient_of
from rep3d.datasets.sources.folders import FOLDERS
from rep3d.io.folders import walk

BY_PATIENT = "files beside each other, or a folder for each patient"
RUN = re.compile(r"(?:^|_)(run-[A-Za-z0-9]+)(?=_|$)")  # BIDS' word for it, in the name of a file


def by_patient(folder: Path, chosen: Collection[str]) -> Source:
    """Cases whose label lies beside their image or in a folder of the same patient, and has a word for its kind.

    Args:
        chosen: see `one_channel`.
    """
    paths = sorted(path for _, files in walk(folder) for path in files if is_nifti(path))
    names = [case_name(path) for path in paths]
    bare = {without_label_word(name) for name in names if _is_label(name)}
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(_group(path.relative_to(folder), bare), []).append(path)
    if not groups:
        raise ValueError(
            f"source {str(folder)!r} holds no .nii.gz or .nii files, expected a dataset.json, the folders {FOLDERS}, "
            f"or a folder a patient{what_else(folder)}"
        )
    parts = [(name, run, own) for name, paths in groups.items() for run, own in _runs(paths).items()]
    found = min(([_case_of_group(*part, end) for part in parts] for end in (False, True)), key=_oddity)
    strange = _of_other_patients(
        {path: patient_of(group) for group, own in groups.items() for path in own if path.parent != folder}
    )
    for i, (_, _, own) in enumerate(parts):
        told = next((strange[path] for path in own if path in strange), "")
        found[i] = found[i]._replace(problem=found[i].problem or told)
    cases, notes = one_channel(found, chosen)
    return Source(BY_PATIENT, cases, channels_of(cases), notes=notes)


def _of_other_patients(patient_of_file: Mapping[Path, str]) -> dict[Path, str]:
    """What is wrong with files that are called after the patient of another folder than their own.

    Patients that are called by numbers count where most files begin with their own: `2_t1` may be a second scan.

    Args:
        patient_of_file: of those in folders of patients.
    """
    patients = set(patient_of_file.values())
    own = sum(_begins(case_name(path), patient) for path, patient in patient_of_file.items())
    known = {patient for patient in patients if not patient.isdecimal() or 2 * own > len(patient_of_file)}
    found = {}
    for path, patient in patient_of_file.items():
        name = case_name(path)
        others = [other for other in known if _begins(name, other) and not _begins(patient, other)]
        if others and not _begins(name, patient):
            found[path] = f"{path}: is called after the patient {max(others, key=len)!r}, expected {patient!r}"
    return found


def _begins(name: str, word: str) -> bool:
    """Whether a name begins with a word, as `P1_seg` does with P1, and `P10_seg` does not."""
    return name.startswith(word) and not name[len(word) : len(word) + 1].isalnum()


def _oddity(cases: Sequence[Case]) -> tuple[int, int]:
    """By which of several ways to read their names these are less alike: cases with problems, and kinds of images."""
    return sum(bool(case.problem) for case in cases), len({kind for case in cases for kind in case.images})


def _group(path: Path, bare: Collection[str]) -> str:
    """What the files of one case have in common: BIDS' subject and session, else the folder, else the bare name.

    Where a session is of no subject, the folder is that of its patient.

    Args:
        path: from the folder on.
        bare: names of labels without the word for their kind.
    """
    entities = [part for part in path.parts[:-1] if re.match(r"(sub|ses)-", part)]
    if entities:
        is_told = any(part.startswith("sub-") for part in entities)
        return "_".join(dict.fromkeys(entities if is_told else [path.parts[0], *entities]))
    if len(path.parts) > 1:
        return path.parts[0]
    return case_and_number(without_label_word(case_name(path)), bare)[0]


def _runs(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of a group by their BIDS run; all together where these are of one at most."""
    found: dict[str, list[Path]] = {}
    for path in paths:
        run = RUN.search(case_name(path))
        found.setdefault(run[1] if run else "", []).append(path)
    return found if len(found.keys() - {""}) > 1 else {"": list(paths)}


def _case_of_group(group: str, run: str, paths: Sequence[Path], end: bool) -> Case:
    """The case of some files.

    Args:
        group, run: what they have in common; the latter may be empty.
        end: see `_kind`.
    """
    name = "_".join(filter(None, (group, run)))
    labels = [path for path in paths if _is_label(case_name(path))]
    images, problem = dict[str, Path](), ""
    for path in paths:
        if path not in labels:
            kind = _kind(case_name(path), group, end)
            first = images.setdefault(kind, path)
            problem = problem if first == path else both_files(kind, name, first, path)
    if len(labels) > 1:
        problem = f"case {name!r} has several label maps, expected one: {labels[0]}, {labels[1]}"
    return Case(name, images, labels[0] if labels else None, patient_of(group), problem=problem)


def _is_label(name: str) -> bool:
    return without_label_word(name) != name


def _kind(name: str, group: str, end: bool) -> str:
    """The part of a file's name that is not its case's.

    Args:
        end: it may end with what its case is called, `t1_p1`, and not only begin so.
    """
    parts = re.split("_(?=ses-)", group)
    for part in parts:
        name = name.removeprefix(part).strip("_-. ")
    for part in reversed(parts) if end else ():
        name = re.sub(rf"[_\-. ]{re.escape(part)}$", "", name)
    return RUN.sub("", name).strip("_-. ") or IMAGE
