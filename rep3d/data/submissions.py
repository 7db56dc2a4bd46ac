"""What the label app keeps with a label that was submitted, and what whoever trains on such labels is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rep3d.files import digest

UNNAMED = "unnamed"  # labels of its model that are none of its segments
ABSENT = "absent"  # labels of its model without a voxel
LABELLED = "image"  # checksum of its image's file
DESCRIBED = 3  # cases, in a message


def checksum(image: Path) -> str:
    """Tells an image's file from others, as clients of MONAI Label do."""
    return f"SHA256:{digest(image)}"


def describe_absent(lacking: Mapping[str, Sequence[str]], count: int) -> str:
    """Which structures labels do not show, what few lack first; an empty text where each shows all.

    A scan may show no others, and its label be complete; or somebody corrected one of many.

    Args:
        lacking: by structure, the cases whose labels do not show it.
        count: of all labels.
    """
    found = [
        f"no {name} in {len(cases)} of {count} label(s), such as {cases[0]}"
        for name, cases in sorted(lacking.items(), key=lambda item: len(item[1]))
    ]
    return f"what a label does not show counts as background: {first_of(found)}" if found else ""


def describe_exchanged(cases: Sequence[str]) -> str:
    """Which images are other files than those that were labelled; an empty text where none is.

    A label still holds where its image was only worked on; it is of another scan where a name was used twice.
    """
    told = f"{len(cases)} image(s) are other files than those that were labelled, check them"
    return f"{told}: {first_of(cases)}" if cases else ""


def first_of(texts: Sequence[str]) -> str:
    """The first of several texts, for a message."""
    return "; ".join(texts[:DESCRIBED]) + ("; ..." if len(texts) > DESCRIBED else "")
