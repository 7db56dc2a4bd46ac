"""What a bundle for a data set should look like, from the data set's fingerprint: each choice with its reason.

Everything here is arithmetic on `rep3d.datasets.fingerprint.CaseFacts`; no file is opened.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from rep3d.data import splits
from rep3d.data.notes import Window
from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.machine import Machine
from rep3d.io.geometry import VolumeError, plain_geometry
from rep3d.transforms import MAX_GRID_BYTES, check_resampled

CT, MR = "CT", "MR"
CT_WORD = r"(?<![a-z])((nc|ce|cb)?cta?|computed tomography)(?![a-z])"  # also NCCT, CECT, CBCT, CTA, in names
NUMBERED = rf"\d{CT_WORD}|{CT_WORD}\d"  # a CT, or a T1 with contrast, which some call CT1 or T1CT
AIR = -200.0  # Hounsfield units: an image whose darkest percent lies below is a CT
ANISOTROPIC = 3.0  # ratio of two spacings, from which on the larger is taken finer, as nnU-Net does it
FINER = 10.0  # percentile of such a spacing
WRONG = 5.0  # ratio of two spacings in all axes, of which one must be wrong: by ten, where others differ by two
WINDOW = (0.5, 99.5)  # percentiles of the labelled voxels
FOLDS = 5
DIVISOR = 16  # of the edges of a patch; twice as much is the least, so that no stage has a single voxel
BATCH_SIZE = 2
MEASURED, PER_LABEL = 16, 24.0  # labels of the measured steps, bytes of a voxel for each further one (measured: 22)
SPARE = 0.8  # of the memory: what a training may take
VALIDATIONS = 20  # in a training
CACHE = 0.25  # of the computer's memory, or without a GPU of what a step leaves of it


class Decision(NamedTuple):
    """Why something was chosen, in a line for people."""

    what: str
    why: str


class Schedule(NamedTuple):
    """How many epochs, how many of them between two validations, and why.

    Args:
        steps: of an epoch; None: those of the recipe.
    """

    epochs: int
    val_interval: int
    why: str
    steps: int | None = None


class Budget(NamedTuple):
    """A network, and what a training step takes: fixed bytes and those for each voxel of a batch.

    Measured in float32 with 16 labels (`scripts/benchmark_network.py`; of `rep3d_tiny` the memory of a process): an
    upper bound for half precision.
    """

    network: str
    fixed: float
    per_voxel: float
    most_voxels: int  # of a patch, whatever the memory
    learning_rate: float
    epochs: int
    num_workers: int
    windows: int  # of inference at once


SMALL = Budget("rep3d_tiny", 0.9e9, 2.2e3, 64 * 48 * 48, 0.002, 100, 0, 4)
PAPER = Budget("rep3d", 1.5e9, 5.2e3, 128 * 128 * 128, 0.0001, 600, 2, 1)


@dataclass(frozen=True)
class Plan:
    """What goes into the data set's file, and the decisions behind it; spacing and folds are those of the data."""

    network: str
    recipes: Sequence[str]
    modality: str
    spacing: Sequence[float]
    intensity_window: Window
    patch_size: Sequence[int]
    sw_batch_size: int
    batch_size: int
    cache_num: int
    epochs: int
    steps_per_epoch: int | None  # None: those of the recipe
    val_interval: int  # 0 where nothing validates
    learning_rate: float
    num_workers: int
    folds: int
    sizes: Mapping[str, int]  # cases of the parts of a fold
    decisions: Sequence[Decision]


def plan_bundle(
    facts: Sequence[CaseFacts],
    machine: Machine,
    *,
    patients: int,
    told: Sequence[str] = (),
    modality: str | None = None,
    schedule: Schedule | None = None,
    spacing: Sequence[float] | None = None,
    folds: int | None = None,
    own_splits: Sequence[splits.Split] = (),
) -> Plan:
    """Decide.

    Args:
        facts: of the good cases, at least one of which has something labelled.
        machine: where it will train.
        patients: how many the cases are of.
        told: what the data set's own file calls its channels; of several one name each.
        modality: CT or MR, where the user knows, of several channels one for all or one each: "CT,MR"; MR stands for
            all that has no units.
        schedule: how long it is to train, where that was measured.
        spacing: in mm, along the RAS axes, that a user wants; all else is decided for it.
        folds: how many a user wants.
        own_splits: those that a user wrote.

    Raises:
        ValueError: some cases look like CT and others do not, or the memory is too small for any patch.
    """
    decided, of_spacing = choose_spacing(facts)
    if spacing is None:
        spacing = decided
    else:
        of_spacing = Decision(_spacing_of(spacing), f"yours; the data say {_mm(decided)} mm")
    kind, window, recipe, of_intensities = choose_intensities(facts, told, modality)
    budget = PAPER if machine.has_gpu else SMALL
    patch, batch, of_patch = choose_patch(facts, spacing, budget, machine)
    epochs, val_interval, of_epochs, steps = schedule or Schedule(
        budget.epochs, budget.epochs // VALIDATIONS, "of 50 steps each; --hours 2 chooses them by time"
    )
    if own_splits:
        decided_folds, sizes, of_folds = _folds_of(own_splits)
    else:
        decided_folds, of_folds = choose_folds(patients, "patient" if patients < len(facts) else "case")
        sizes = _sizes(len(facts), folds or decided_folds)
    if folds is not None:
        what = f"{folds} folds" if sizes["validation"] else "no validation"
        of_folds = Decision(what, f"yours; the number of patients says {decided_folds}")
    shape = median_shape(facts, spacing)
    case_bytes = 4 * (facts[0].channels + 1) * math.prod(shape)  # with the label map
    labels = len(facts[0].voxels)
    left = machine.host_memory - (0 if machine.has_gpu else _step_bytes(budget, batch, patch, labels))
    cached = min(len(facts), int(CACHE * left / case_bytes))
    decisions = [
        *of_intensities,
        Decision("orientation RAS", _orientations(facts)),
        of_spacing,
        Decision(f"network {budget.network}", f"for {machine.told}"),
        *of_patch,
        of_folds,
        Decision(f"{epochs} epochs", of_epochs),
        Decision(f"learning rate {budget.learning_rate:g}", f"with {budget.network}"),
        Decision(
            f"{cached} case(s) stay in memory", f"in at most {CACHE * left / 1e9:.1f} GB, a quarter of what is free"
        ),
    ]
    return Plan(
        network=budget.network,
        recipes=["automatic", recipe],
        modality=kind,
        spacing=decided,
        intensity_window=window,
        patch_size=patch,
        sw_batch_size=budget.windows,
        batch_size=batch,
        cache_num=cached,
        epochs=epochs,
        steps_per_epoch=steps,
        val_interval=val_interval if sizes["validation"] else 0,
        learning_rate=budget.learning_rate,
        num_workers=budget.num_workers,
        folds=decided_folds,
        sizes=sizes,
        decisions=decisions,
    )


def choose_intensities(
    facts: Sequence[CaseFacts], told: Sequence[str], modality: str | None
) -> tuple[str, Window, str, list[Decision]]:
    """The modalities, the windows as `rep3d.data.notes.channel_windows` takes them, the recipe, and why.

    Raises:
        ValueError: as `choose_modality`, or more or fewer modalities than channels.
    """
    count = facts[0].channels
    own = modality.split(",") if modality else [None]
    if len(own) not in (1, count):
        raise ValueError(f"modality is {modality!r}, expected one, or {count}: there are so many channels")
    own = own * count if len(own) == 1 else own
    kinds, windows, decisions = [], [], []
    for channel in range(count):
        names = told[channel : channel + 1] if count > 1 else told
        kind, of_kind = choose_modality(facts, names, own[channel], channel)
        window, of_window = choose_window(facts, kind, channel)
        kinds.append(kind)
        windows.append(window)
        prefix = f"channel {channel}, " if count > 1 else ""
        decisions += [Decision(f"{prefix}{one.what}", one.why) for one in (of_kind, of_window)]
    modalities = " and ".join(dict.fromkeys(kinds))
    if not any(windows):
        return modalities, None, "z_score", decisions
    if count == 1:
        return modalities, windows[0], "window", decisions
    return modalities, windows, "channels", decisions


def choose_modality(
    facts: Sequence[CaseFacts], told: Sequence[str], modality: str | None, channel: int = 0
) -> tuple[str, Decision]:
    """CT, which has units, or MR, for all else.

    Raises:
        ValueError: some cases look like CT and others do not, and nobody says what they are.
    """
    if modality is not None:
        return modality, Decision(f"modality {modality}", "you said so")
    looks = {fact.case: fact.percentiles[channel][0] < AIR for fact in facts}
    ct, other = ([case for case, is_ct in looks.items() if is_ct == value] for value in (True, False))
    if told:
        kind = CT if any(_means_ct(name, not other) for name in told) else MR
        doubtful = other if kind == CT else ct
        doubt = f"; {len(doubtful)} case(s) do not look so, such as {doubtful[0]}" if doubtful else ""
        if kind == MR and any(re.search(CT_WORD, name, re.IGNORECASE) for name in told):
            doubt = f"; not all cases have the air of a CT: --modality {CT} where it is one all the same"
        return kind, Decision(f"modality {kind}", f"the data set's file calls it {', '.join(told)}{doubt}")
    if ct and other:
        raise ValueError(
            f"{len(ct)} case(s) have the air of CT, such as {ct[0]}, and {len(other)} have not, such as {other[0]}: "
            "expected one modality, or --modality CT or MR, of several channels one each"
        )
    if ct:
        return CT, Decision(f"modality {CT}", f"in all cases voxels lie below {AIR:g}, as air in Hounsfield units does")
    return MR, Decision(f"modality {MR}", f"in no case voxels lie below {AIR:g}, as air in CT would")


def _means_ct(name: str, has_air: bool) -> bool:
    """Whether a channel's name calls it CT, by its air where it may be another."""
    found = re.search(CT_WORD, name, re.IGNORECASE) is not None
    return found and (has_air or not re.search(NUMBERED, name, re.IGNORECASE))


def choose_spacing(facts: Sequence[CaseFacts]) -> tuple[list[float], Decision]:
    """The median of each RAS axis; of an axis much coarser than another a finer one, but not finer than the others."""
    spacings = np.array([ras_spacing(fact) for fact in facts])
    chosen = np.median(spacings, axis=0)
    why = f"median of {len(facts)} case(s)"
    coarse = int(chosen.argmax())
    if chosen[coarse] >= ANISOTROPIC * chosen.min() and len(facts) > 1:
        finer = np.percentile(spacings[:, coarse], FINER)
        chosen[coarse] = max(finer, np.delete(chosen, coarse).max())
        axis = ("first", "second", "third")[coarse]
        why += f"; the {axis} axis is anisotropic, so its {FINER:g}th percentile"
        why += ", but no finer than the others" if chosen[coarse] > finer else ""
    spread = spacings.max(axis=0) / spacings.min(axis=0)
    if spread.max() >= ANISOTROPIC:
        why += f"; they differ by up to {spread.max():.2g} times"
    rounded = [float(f"{value:.4g}") for value in chosen]
    return rounded, Decision(_spacing_of(rounded), why)


def _spacing_of(spacing: Sequence[float]) -> str:
    return f"spacing {' x '.join(f'{value:.2f}' for value in spacing)} mm"


def wrong_spacings(facts: Sequence[CaseFacts]) -> dict[str, list[str]]:
    """The cases whose voxels are five times as large or small as most, along all axes: their headers must be wrong.

    Raises:
        ValueError: half of them are, so that nobody knows which.
    """
    spacings = np.array([ras_spacing(fact) for fact in facts])
    median = np.percentile(spacings, 50, axis=0, method="lower")
    ratios = spacings / median
    off = (ratios >= WRONG).all(axis=1) | (ratios <= 1 / WRONG).all(axis=1)
    cases = {fact.case: spacing for fact, spacing, is_off in zip(facts, spacings, off, strict=True) if is_off}
    if 2 * len(cases) >= len(facts):
        good = next(fact.case for fact, is_off in zip(facts, off, strict=True) if not is_off)
        raise ValueError(
            f"voxels of {next(iter(cases))} and of {good} differ at least {WRONG:g} times along all axes, and so do "
            "those of half of the cases: the headers of some must be wrong"
        )
    told = f"at least {WRONG:g} times as large or small as those of most cases"
    return {case: [f"{case}: voxels of {_mm(own)} mm, {told}, {_mm(median)} mm"] for case, own in cases.items()}


def too_large(facts: Sequence[CaseFacts], spacing: Sequence[float]) -> dict[str, list[str]]:
    """The cases that a training would refuse, as they would have too many voxels of a spacing, or a single one."""
    found = {}
    for fact in facts:
        axes, affine = nib.orientations.axcodes2ornt(tuple(fact.orientation)), np.diag([0.0, 0.0, 0.0, 1.0])
        affine[axes[:, 0].astype(int), range(3)] = fact.spacing
        geometry = replace(plain_geometry(tuple(fact.shape), affine), channels=fact.channels)
        try:
            check_resampled(fact.case, geometry, spacing, MAX_GRID_BYTES)
        except VolumeError as error:
            found[fact.case] = [str(error)]
    return found


def choose_window(facts: Sequence[CaseFacts], modality: str, channel: int = 0) -> tuple[list[float] | None, Decision]:
    """The intensities that become 0 and 1; None for the z-score."""
    if modality != CT:
        why = f"{modality} has no units; percentiles 0.05 to 99.95 before, so that no single voxel decides"
        return None, Decision("intensity z-scored per case", why)
    labelled = [fact.foreground_quantiles[channel] for fact in facts if fact.foreground_quantiles]
    pooled = [value for of_case in labelled for value in of_case]
    low, high = (math.floor(np.percentile(pooled, WINDOW[0])), math.ceil(np.percentile(pooled, WINDOW[1])))
    window = [float(low), float(max(high, low + 1))]
    why = f"percentiles {WINDOW[0]} and {WINDOW[1]} of the labelled voxels of all cases"
    return window, Decision(f"intensity window {window[0]:g} to {window[1]:g} HU", why)


def choose_patch(
    facts: Sequence[CaseFacts], spacing: Sequence[float], budget: Budget, machine: Machine
) -> tuple[list[int], int, list[Decision]]:
    """Edges that the network takes, towards the median image; smaller where the memory asks for it. And the batch.

    Raises:
        ValueError: the memory is too small for the least patch.
    """
    shape = median_shape(facts, spacing)
    least = 2 * DIVISOR
    patch = [max(least, DIVISOR * math.ceil(n / DIVISOR)) for n in shape]
    labels = len(facts[0].voxels)
    room = (SPARE * machine.memory - budget.fixed) / _per_voxel(budget, labels)  # voxels of a batch
    batch = BATCH_SIZE if room >= BATCH_SIZE * least**3 else 1
    most = min(budget.most_voxels, int(room / batch))
    if most < least**3:
        needed = _step_bytes(budget, 1, [least] * 3, labels) / SPARE
        raise ValueError(
            f"{machine.told} is too small: a step of {budget.network} with the least patch, {_by([least] * 3)} voxels, "
            f"takes {needed / 1e9:.1f} GB"
        )
    while math.prod(patch) > most:
        larger = [axis for axis in range(3) if patch[axis] > least]
        patch[max(larger, key=lambda axis: (patch[axis] / shape[axis], patch[axis]))] -= DIVISOR
    takes = _step_bytes(budget, batch, patch, labels)
    why = f"the median image has {_by(shape)} voxels then, and the network takes multiples of {DIVISOR} from {least}"
    fits = f"a step then takes about {takes / 1e9:.1f} GB of {machine.memory / 1e9:.1f} GB"
    return patch, batch, [Decision(f"patch size {_by(patch)}", why), Decision(f"batch size {batch}", fits)]


def _step_bytes(budget: Budget, batch: int, patch: Sequence[int], labels: int) -> float:
    return budget.fixed + _per_voxel(budget, labels) * batch * math.prod(patch)


def _per_voxel(budget: Budget, labels: int) -> float:
    return budget.per_voxel + PER_LABEL * max(0, labels - MEASURED)


def choose_folds(count: int, unit: str = "patient") -> tuple[int, Decision]:
    """Five, or with few patients fewer; 1 for one, which leaves nothing to validate with.

    Args:
        count: of patients.
        unit: what the reason calls them: cases, where nobody knows which are of one patient.
    """
    if count == 1:
        return 1, Decision("no validation", f"there is 1 {unit}, and 2 are needed, for {FOLDS} folds {FOLDS}")
    folds = min(FOLDS, count)
    needed = (
        f", and {FOLDS} folds need {FOLDS}"
        if folds < FOLDS
        else ", each of which validates once; data/splits.json is yours to edit"
    )
    return folds, Decision(f"{folds} folds", f"there are {count} {unit}s{needed}")


def _sizes(cases: int, folds: int) -> dict[str, int]:
    validation = round(cases / folds) if folds > 1 else 0
    return {"training": cases - validation, "validation": validation, "test": 0}


def _folds_of(own: Sequence[splits.Split]) -> tuple[int, dict[str, int], Decision]:
    """How many splits of a user there are, the sizes of the first that holds cases out, or of the first, and why."""
    first = next((split for split in own if split["val"]), own[0])
    sizes = {part: len(first.get(key, [])) for part, key in splits.KEYS.items()}
    if not sizes["validation"]:
        return len(own), sizes, Decision("no validation", f"data/{splits.FILE} is yours, and holds no case out")
    return len(own), sizes, Decision(f"{len(own)} fold(s)", f"yours, from data/{splits.FILE}")


def median_shape(facts: Sequence[CaseFacts], spacing: Sequence[float]) -> list[int]:
    """Voxels along the RAS axes after resampling."""
    shapes = [
        [
            max(1, round(n * own / new))
            for n, own, new in zip(_ras(fact, fact.shape), ras_spacing(fact), spacing, strict=True)
        ]
        for fact in facts
    ]
    return [int(n) for n in np.median(shapes, axis=0)]


def ras_spacing(fact: CaseFacts) -> list[float]:
    """Of a case, along the axes right, anterior, superior."""
    return _ras(fact, fact.spacing)


def _ras(fact: CaseFacts, values: Sequence[Any]) -> list[Any]:
    """What belongs to the axes of the file, by the axes right, anterior, superior."""
    axes = nib.orientations.axcodes2ornt(tuple(fact.orientation))[:, 0].astype(int)
    found = dict(zip(axes.tolist(), values, strict=True))
    return [found[axis] for axis in range(3)]


def _orientations(facts: Sequence[CaseFacts]) -> str:
    counts: Mapping[str, int] = Counter(fact.orientation for fact in facts)
    return f"all are turned to it; they are {', '.join(f'{name} ({count})' for name, count in counts.items())}"


def _mm(spacing: Iterable[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
