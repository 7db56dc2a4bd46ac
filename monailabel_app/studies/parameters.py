"""What clients may tell of a label that they submit; keys that are not declared are ignored."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class LabelInfo(BaseModel):
    """A segment as 3D Slicer describes it: the i-th of the list has the voxel value i + 1."""

    name: Annotated[str, Field(max_length=200)]


class SubmissionParameters(BaseModel):
    label_info: Annotated[list[LabelInfo], Field(max_length=255)] | None = None
    client_id: Annotated[str, Field(max_length=200)] | None = None
    allow_empty: bool = False
