"""The weights of the models, and their versions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, UploadFile
from fastapi.responses import FileResponse

from monailabel_app.errors import RequestError
from monailabel_app.models.uploads import serve_upload
from monailabel_app.models.versions import list_versions, serve_version
from monailabel_app.web.arguments import Admin, AnyUser, AppServices
from monailabel_app.web.uploads import received

router = APIRouter()


@router.get("/model/info/{model}")
def model_info(user: Admin, services: AppServices, model: str) -> dict[str, object]:
    services.model(model)
    found = services.describe_model(model)
    if not found:
        raise RequestError(404, f"model {model!r} has no weights yet")
    return found


@router.get("/model/{model}")
def download_model(user: Admin, services: AppServices, model: str) -> FileResponse:
    path = services.weighted(model).weights
    if not path.is_file():
        raise RequestError(404, f"model {model!r} has no weights yet")
    return FileResponse(path, filename=f"{model}.pt")


@router.put("/model/{model}")
def replace_model(
    user: Admin, services: AppServices, model: str, file: Annotated[UploadFile, File()]
) -> dict[str, object]:
    """The new weights serve at once; those that served stay a version."""
    chosen = services.model(model)
    if not services.settings.model_upload:
        raise RequestError(403, "weights are not accepted here: the server's setting model_upload is false")
    with received(file, ".pt") as path:
        version = serve_upload(chosen, path, user.username)
    return {**(services.describe_model(model) or {}), "version": version["version"]}


@router.get("/model/{model}/versions")
def model_versions(user: AnyUser, services: AppServices, model: str) -> list[dict[str, object]]:
    """Not of MONAI Label: every version of the weights, and which one serves."""
    return list_versions(services.weighted(model))


@router.post("/model/{model}/versions/{number}")
def serve_model_version(user: Admin, services: AppServices, model: str, number: int) -> dict[str, object]:
    """Not of MONAI Label: let a version of the weights serve."""
    return serve_version(services.weighted(model), number)
