"""What clients may set for a segmentation or a training; keys that are not declared are ignored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field


class InferenceParameters(BaseModel):
    device: Annotated[str, Field(max_length=100)] = ""
    preset: Literal["fast", "accurate"] = "fast"
    result_extension: Literal[".nii.gz", ".nii", ".nrrd", ".seg.nrrd"] = ".nii.gz"
    result_dtype: Literal["uint8", "uint16", "int16", "int32"] = "uint8"
    result_compress: bool = True


class TrainingParameters(BaseModel):
    device: Annotated[str, Field(max_length=100)] = ""
    max_epochs: Annotated[int, Field(ge=1, le=100_000)] = 50
    val_split: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    pretrained: bool = True


class PromptTrainingParameters(TrainingParameters):
    """Of a bundle that takes prompts, whose epochs are long: its users wait for the end."""

    max_epochs: Annotated[int, Field(ge=1, le=100_000)] = 2
