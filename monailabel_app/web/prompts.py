"""Prompts as MONAI Label's clients send them: lists of [i, j, k] in the image's own voxels, a box, a label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat

from monailabel_app.errors import RequestError
from monailabel_app.models.parameters import InferenceParameters
from rep3d.interactive.grid import Box, Grid
from rep3d.interactive.prompts import Prompt, box, point

MAX_POINTS = 1000  # of one list

Name = Annotated[str, Field(max_length=200)]


class Segment(BaseModel):  # type: ignore[explicit-any]  # pydantic's
    """A segment of a label map as 3D Slicer describes it."""

    name: Name
    id: Annotated[int, Field(ge=1, le=255)]


class PromptParameters(InferenceParameters):  # type: ignore[explicit-any]
    """Of a request with prompts. Lists of points come under names of their own, see `read_points`.

    What else clients send is not needed: `reset_state` tells that the user has chosen another label, whose prompts are
    kept here apart from those of others.
    """

    client_id: Name = ""
    label: Name = ""
    roi: Annotated[list[FiniteFloat], Field(max_length=6)] = []
    lock_submitted: bool = False
    label_info: Annotated[list[Segment], Field(max_length=255)] = []
    selected_label_name: Name = ""
    lock_others: bool = False
    continue_from: Name = ""


def point_lists(parameters: Mapping[str, object]) -> dict[str, object]:
    """What a request holds beside the parameters that are declared, and may be points."""
    return {
        name: value
        for name, value in parameters.items()
        if name not in PromptParameters.model_fields and isinstance(value, list)
    }


def read_points(points: object, name: str, scan: Grid, *, positive: bool) -> list[Prompt]:
    """The points of a list, in its order.

    Args:
        points: what the request holds under the name.

    Raises:
        RequestError: no list, too many points, or one that is none or lies outside the scan, which the message names.
    """
    where = f"params[{name!r}]"
    if not isinstance(points, list):
        raise RequestError(400, f"{where} is {_quoted(points)}, expected a list of points [i, j, k]")
    if len(points) > MAX_POINTS:
        raise RequestError(413, f"{where} has {len(points)} points, at most {MAX_POINTS} are accepted")
    voxels = [_voxel(value, f"{where}[{number}]", scan) for number, value in enumerate(points)]
    return [point(voxel, scan.spacing, positive) for voxel in voxels]


def read_roi(roi: Sequence[float], scan: Grid) -> Box | None:
    """The part of the scan in a box [i, i, j, j, k, k] whose ends come in any order; None for an empty list.

    Raises:
        RequestError: other than six numbers, or a box outside the scan.
    """
    if not roi:
        return None
    if len(roi) != 6:
        raise RequestError(400, f"params['roi'] is {_quoted(roi)}, expected six numbers: from and to along each axis")
    ends = [sorted(map(round, roi[axis : axis + 2])) for axis in (0, 2, 4)]
    if any(high < 0 or low >= size for (low, high), size in zip(ends, scan.shape, strict=True)):
        raise RequestError(400, f"params['roi'] is {_quoted(roi)}, a box outside the image of {_size(scan)} voxels")
    i, j, k = (slice(max(low, 0), min(high + 1, size)) for (low, high), size in zip(ends, scan.shape, strict=True))
    return i, j, k


def box_prompt(roi: Box, scan: Grid) -> Prompt:
    """The box round a structure."""
    return box([part.start for part in roi], [part.stop - 1 for part in roi], scan.spacing)


def read_segments(label_info: Sequence[Segment]) -> dict[str, int]:
    """The values of a label map's segments by their names.

    Raises:
        RequestError: one name or one value for two.
    """
    for what, found in (
        ("name", [segment.name for segment in label_info]),
        ("id", [segment.id for segment in label_info]),
    ):
        twice = next((value for number, value in enumerate(found) if value in found[:number]), None)
        if twice is not None:
            raise RequestError(400, f"params['label_info'] has two segments of the {what} {twice!r}")
    return {segment.name: segment.id for segment in label_info}


def _voxel(value: object, where: str, scan: Grid) -> list[int]:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 3 or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise RequestError(400, f"{where} is {_quoted(value)}, expected three numbers [i, j, k]")
    voxel = [round(number) for number in numbers]
    if not scan.contains(voxel):
        raise RequestError(
            400, f"{where} is {_quoted(value)}, a point outside the image of {_size(scan)} voxels: delete it"
        )
    return voxel


def _size(scan: Grid) -> str:
    return " x ".join(map(str, scan.shape))


def _quoted(value: object) -> str:
    return repr(value)[:80]
