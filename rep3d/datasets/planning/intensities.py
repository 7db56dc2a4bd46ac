"""What images are, CT or MR, and which of their intensities become 0 and 1."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from rep3d.data.notes import AIR, Window
from rep3d.datasets.fingerprint import CaseFacts
from rep3d.datasets.planning.decision import Decision

CT, MR = "CT", "MR"
CT_WORD = r"(?<![a-z])((nc|ce|cb)?cta?|computed tomography)(?![a-z])"  # also NCCT, CECT, CBCT, CTA, in names
NUMBERED = rf"\d{CT_WORD}|{CT_WORD}\d"  # a CT, or a T1 with contrast, which some call CT1 or T1CT
WINDOW = (0.5, 99.5)  # percentiles of the labelled voxels


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
