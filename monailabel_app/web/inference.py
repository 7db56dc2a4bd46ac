"""Segmentations of one image: of the studies, of a session, or sent along."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response
from requests_toolbelt import MultipartEncoder

from monailabel_app.errors import RequestError
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.services import Services
from monailabel_app.studies.dicom import make_segmentation, sorted_slices
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.volumes import check_upload
from monailabel_app.temporary import temporary_file
from monailabel_app.web.arguments import AnyUser, AppServices
from monailabel_app.web.authentication import LOCAL_USER, User
from monailabel_app.web.parameters import check_parameters, parse_parameters
from monailabel_app.web.passing import PassingFile
from monailabel_app.web.prompted_inference import answer_prompts
from monailabel_app.web.prompts import PromptParameters
from monailabel_app.web.uploads import received

router = APIRouter()


@router.post("/infer/{model}")
def infer(
    user: AnyUser,
    services: AppServices,
    request: Request,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: Literal["image", "json", "all", "dicom_seg"] | None = None,
) -> Response:
    if model in services.prompted:
        if file is not None or output == "dicom_seg":
            raise RequestError(
                400, f"model {model!r} takes an image of the studies or of a session, and gives no DICOM"
            )
        parameters = parse_parameters(params, accepted=("label",))
        client = request.client.host if request.client else ""
        result, info = _follow_prompts(services, user, client, model, image, session_id, parameters, label)
        return _answer(result, info, output)
    chosen = services.model(model)
    options = check_parameters(InferenceParameters, parse_parameters(params))
    if label is not None:
        raise RequestError(400, f"model {model!r} takes no label")
    if output == "dicom_seg":
        return _dicom_segmentation(chosen, services.studies, image, options)
    with _scan(services, user, model, image, session_id, file) as path:
        result, info = chosen.segment_to_file(path, options)
    return _answer(result, info, output)


def _follow_prompts(
    services: Services,
    user: User,
    client: str,
    model: str,
    image: str,
    session_id: str,
    parameters: Mapping[str, object],
    label: UploadFile | None,
) -> tuple[Path, dict[str, object]]:
    """See `answer_prompts`; the session is that of the user, of the program that calls, and of the image."""
    services.interaction.network.check()
    told = check_parameters(PromptParameters, parameters).client_id
    # Without a login all users have one name, and 3D Slicer has one, too, unless it is told otherwise.
    caller = told if told and user != LOCAL_USER else f"{told}@{client}"
    start = services.prompted[model].start
    with _scan(services, user, start.bundle.name if start else None, image, session_id, None) as path:
        if session_id:
            session = services.interaction.of_lent(user.username, caller, session_id)
        else:
            session = services.interaction.of_study(user.username, caller, image)
        with received(label) if label is not None else nullcontext() as file:
            return answer_prompts(
                services.studies,
                services.interaction,
                services.prompted[model],
                session,
                "" if session_id else image,
                path,
                parameters,
                file,
            )


@contextmanager
def _scan(
    services: Services, user: User, model: str | None, image: str, session_id: str, file: UploadFile | None
) -> Iterator[Path]:
    """The file to segment; the studies remember by which bundle, if any, an image of theirs was segmented last."""
    if file is not None:
        with received(file) as path:
            check_upload(path)
            yield path
    elif session_id:
        yield services.sessions.image(session_id, user.username)
    elif image:
        yield services.studies.image(image)
        if model is not None:
            services.studies.update_image_info(image, {"model": model})
    else:
        raise RequestError(400, "image, file or session_id is missing")


def _dicom_segmentation(
    model: BundleInference, studies: StudiesFolder, image: str, options: InferenceParameters
) -> Response:
    """The label map of a DICOM series of the studies as a DICOM Segmentation.

    Raises:
        RequestError: 400, the image is no DICOM series; others as inference does.
    """
    slices = sorted_slices(studies.series(image))
    result = model.segment(studies.image(image), device=options.device, preset=options.preset)
    segmentation = make_segmentation(slices, result.voxels, model.bundle)
    studies.update_image_info(image, {"model": model.bundle.name})
    with temporary_file(".dcm") as path:
        segmentation.save_as(path)
    return PassingFile(path, media_type="application/dicom")


def _answer(result: Path, info: Mapping[str, object], output: str | None) -> Response:
    """The label map, what is known of it, or both; the file goes afterwards."""
    if output == "json":
        result.unlink()
        return Response(json.dumps(info), media_type="application/json")
    if output == "image":
        return PassingFile(result)
    try:
        with result.open("rb") as file:
            fields = {
                "params": (None, json.dumps(info), "application/json"),
                "image": (result.name, file, "application/octet-stream"),
            }
            encoder = MultipartEncoder(fields=fields)
            return Response(encoder.to_string(), media_type=encoder.content_type)
    finally:
        result.unlink()
