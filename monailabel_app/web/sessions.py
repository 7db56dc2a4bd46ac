"""Images that a client lends for a while."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, UploadFile
from fastapi.responses import FileResponse

from monailabel_app.errors import RequestError
from monailabel_app.studies.volumes import check_upload
from monailabel_app.web.arguments import AnyUser, AppServices
from monailabel_app.web.uploads import received

router = APIRouter()


@router.put("/session/")
def create_session(
    user: AnyUser,
    services: AppServices,
    files: Annotated[list[UploadFile], File()],
    uncompress: bool = False,
    expiry: int = 0,
) -> dict[str, object]:
    if uncompress or len(files) != 1:
        raise RequestError(400, "a session takes one image file; archives are not unpacked")
    with received(files[0]) as path:
        check_upload(path)
        session = services.sessions.create(path, user.username, expiry)
    return {"session_id": session.name, "session_info": session.json()}


@router.get("/session/{session_id}", response_model=None)
def get_session(
    user: AnyUser, services: AppServices, session_id: str, update_ts: bool = False, image: bool = False
) -> FileResponse | dict[str, object]:
    if image:
        path = services.sessions.image(session_id, user.username)
        return FileResponse(path, filename=path.name)
    return services.sessions.get(session_id, user.username, touch=update_ts).json()


@router.delete("/session/{session_id}")
def remove_session(user: AnyUser, services: AppServices, session_id: str) -> dict[str, object]:
    return services.sessions.remove(session_id, user.username).json()
