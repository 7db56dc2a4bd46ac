"""The images of the studies."""

from __future__ import annotations

from pathlib import PureWindowsPath
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import FileResponse

from monailabel_app.studies.volumes import check_upload, split_suffix
from monailabel_app.web.answers import image_answer
from monailabel_app.web.arguments import Admin, Annotator, AnyUser, AppServices
from monailabel_app.web.parameters import parse_parameters
from monailabel_app.web.uploads import received

router = APIRouter()


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    user: Annotator,
    services: AppServices,
    file: Annotated[UploadFile, File()],
    image: str = "",
    params: Annotated[str, Form()] = "{}",
) -> dict[str, object]:
    parse_parameters(params)
    with received(file) as path:
        check_upload(path)
        name = image or split_suffix(PureWindowsPath(file.filename or "").name)[0]
        return {"image": services.studies.add_image(name, str(path), {"user": user.username})}


@router.delete("/datastore/")
@router.delete("/datastore/image")
def remove_image(user: Admin, services: AppServices, id: str) -> dict[str, object]:
    with services.interaction.removing_image(id):
        services.studies.remove_image(id)
    return {}


@router.head("/datastore/image")
@router.get("/datastore/image")
def download_image(user: AnyUser, services: AppServices, image: str) -> FileResponse:
    path = services.studies.image(image)
    return FileResponse(path, filename=path.name)


@router.get("/datastore/image/info")
def image_info(user: AnyUser, services: AppServices, request: Request, image: str) -> dict[str, object]:
    return image_answer(services.studies.get_image_info(image), request)


@router.put("/datastore/image/info")
def update_image_info(
    user: Annotator, services: AppServices, image: str, info: Annotated[str, Form()] = "{}"
) -> dict[str, object]:
    services.studies.update_image_info(image, {"told": {**parse_parameters(info), "user": user.username}})
    return {}
