"""The labels of the studies, and their versions."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import FileResponse, Response

from monailabel_app.interaction.conversation import LABEL
from monailabel_app.studies.folder import FINAL
from monailabel_app.studies.submission import Submission, submit_label
from monailabel_app.web.arguments import Admin, Annotator, AnyUser, AppServices
from monailabel_app.web.parameters import SubmissionParameters, check_parameters, parse_parameters
from monailabel_app.web.prompted_inference import UNNAMED
from monailabel_app.web.uploads import received

# Names of what was shown that programs give: nnInteractive's modules, OHIF, and 3D Slicer to new segments (Segment_1).
NAMELESS = re.compile(rf"({LABEL}|{UNNAMED})([ _]\d+)?", re.IGNORECASE)

router = APIRouter()


@router.put("/datastore/label")
def save_label(
    user: Annotator,
    services: AppServices,
    image: str,
    label: Annotated[UploadFile, File()],
    tag: str = FINAL,
    params: Annotated[str, Form()] = "{}",
) -> dict[str, object]:
    """The answer, which 3D Slicer shows, also tells the model whose label it is, and what of that it does not show."""
    parameters = check_parameters(SubmissionParameters, parse_parameters(params))
    info = {"user": user.username, "client_id": parameters.client_id}
    prompts = services.interaction.shown(user.username, image)
    with received(label) as path:
        label_id = submit_label(
            services.studies,
            services.bundles,
            Submission(
                image,
                path,
                info,
                tag or FINAL,
                names=[segment.name for segment in parameters.label_info or []],
                model=parameters.model,
                prompts=prompts,
                allow_empty=parameters.allow_empty,
            ),
            prompted=services.interaction.network.served(),
            nameless=NAMELESS,
        )
    services.synchronize_soon()
    stored = services.studies.get_label_info(label_id, tag or FINAL)
    return {"image": image, "label": label_id, "model": stored.get("model"), "absent": stored.get("absent")}


@router.delete("/datastore/label")
def remove_label(user: Admin, services: AppServices, id: str, tag: str) -> dict[str, object]:
    services.studies.remove_label(id, tag)
    return {}


@router.head("/datastore/label")
def check_label(user: AnyUser, services: AppServices, image: str, tag: str) -> Response:
    services.studies.label(image, tag)
    return Response()


@router.get("/datastore/label")
def download_label(
    user: AnyUser, services: AppServices, label: str, tag: str, version: int | None = None
) -> FileResponse:
    """`version` is not of MONAI Label: an earlier label, see `label_versions`."""
    studies = services.studies
    path = studies.label(label, tag) if version is None else studies.label_version(label, version)
    return FileResponse(path, filename=f"{label}.nii.gz")


@router.get("/datastore/label/info")
def label_info(user: AnyUser, services: AppServices, label: str, tag: str) -> dict[str, object]:
    return services.studies.get_label_info(label, tag)


@router.put("/datastore/label/info")
def update_label_info(
    user: Annotator, services: AppServices, label: str, tag: str, info: Annotated[str, Form()] = "{}"
) -> dict[str, object]:
    services.studies.update_label_info(label, tag, {"told": {**parse_parameters(info), "user": user.username}})
    return {}


@router.get("/datastore/label/versions")
def label_versions(user: AnyUser, services: AppServices, label: str) -> list[dict[str, object]]:
    """Not of MONAI Label: every label that was ever stored for an image."""
    services.studies.image(label)
    return services.studies.versions(label)
