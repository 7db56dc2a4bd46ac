"""The parameters of requests: data, checked before anything uses them."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError

from monailabel_app.errors import RequestError

MAX_PARAMETERS = 64 * 1024  # characters of one request's parameters
MAX_DEPTH = 16  # of the parameters' nesting

_EXPRESSIONS = ("$", "@", "%")  # begin what a bundle's config evaluates, refers to or includes
# What MONAI Label and the bundles take for images and places; whole names, since a label may be an "aortic root".
_REFUSED_KEYS = {
    *("image", "label", "session", "file", "filename", "path", "paths", "dir", "folder", "root", "uri", "url"),
    *("image_path", "label_path", "load_path", "bundle_path", "bundle_root", "model_filename"),
    *("dataset_dir", "ckpt_dir", "output_dir", "log_dir", "tracking_uri", "distributed_url"),
}

ParametersT = TypeVar("ParametersT", bound=BaseModel)


class SampleParameters(BaseModel):  # type: ignore[explicit-any]  # pydantic's
    """Of a next sample; as everywhere, keys that are not declared are ignored."""

    model: Annotated[str, Field(max_length=200)] = ""


class LabelInfo(BaseModel):  # type: ignore[explicit-any]
    """A segment as 3D Slicer describes it: the i-th of the list has the voxel value i + 1."""

    name: Annotated[str, Field(max_length=200)]


class SubmissionParameters(BaseModel):  # type: ignore[explicit-any]
    """Of a label."""

    label_info: Annotated[list[LabelInfo], Field(max_length=255)] | None = None
    model: Annotated[str, Field(max_length=200)] = ""
    client_id: Annotated[str, Field(max_length=200)] | None = None
    allow_empty: bool = False


def parse_parameters(text: str | None, accepted: Container[str] = ()) -> dict[str, object]:
    """The JSON object of a request, without anything that a config would evaluate.

    Args:
        accepted: keys of the object itself that are refused elsewhere. Where they are, nothing takes them for a place.

    Raises:
        RequestError: too long, no JSON object, or refused by `check_content`.
    """
    if not text:
        return {}
    if len(text) > MAX_PARAMETERS:
        raise RequestError(413, f"params has {len(text)} characters, at most {MAX_PARAMETERS} are accepted")
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "params is no valid JSON") from error
    if not isinstance(parameters, dict):
        raise RequestError(400, f"params is a JSON {type(parameters).__name__}, expected an object")
    check_content(parameters, accepted)
    return parameters


def check_content(parameters: Mapping[str, object], accepted: Container[str] = ()) -> None:
    """Refuse what a config would evaluate, and what no answer could tell again.

    Raises:
        RequestError: see `refuse_expressions`; or half a surrogate pair.
    """
    refuse_expressions(parameters, accepted=accepted)
    try:
        json.dumps(parameters, ensure_ascii=False).encode()
    except ValueError as error:
        raise RequestError(400, "params holds half a surrogate pair, expected plain JSON") from error


def refuse_expressions(value: object, where: str = "params", depth: int = 0, *, accepted: Container[str] = ()) -> None:
    """Refuse config expressions, names of files, NaN and infinity wherever they stand in request parameters.

    Raises:
        RequestError: names the key.
    """
    if depth > MAX_DEPTH:
        raise RequestError(400, f"{where} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str) and value.lstrip().startswith(_EXPRESSIONS):
        raise RequestError(400, f"{where} begins with {value.lstrip()[0]!r}: expressions are not accepted")
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(400, f"{where} is {value}, expected a finite number")
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_expressions(key, f"a key of {where}", depth)
            if key.startswith("_") or (key.lower() in _REFUSED_KEYS and key not in accepted):
                raise RequestError(400, f"{where} has the key {key!r}, which is not accepted among the parameters")
            refuse_expressions(item, f"{where}[{key!r}]", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            refuse_expressions(item, f"{where}[{index}]", depth + 1)


def check_parameters(schema: type[ParametersT], parameters: Mapping[str, object]) -> ParametersT:
    """The declared parameters, with their defaults.

    Raises:
        RequestError: a value of the wrong type, range or choice.
    """
    try:
        checked: ParametersT = schema.model_validate(dict(parameters))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RequestError(400, f"params[{'.'.join(map(str, first['loc']))!r}]: {first['msg']}") from error
    return checked
