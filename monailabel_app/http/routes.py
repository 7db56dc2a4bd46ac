"""The requests of MONAI Label's clients, answered. The paths, parameters and answers are MONAI Label's.

Handlers are plain functions: FastAPI runs them in threads, so that the server answers others while a network runs.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from monailabel.interfaces.utils.app import app_instance
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from monailabel_app.errors import RequestError
from monailabel_app.http.authentication import ADMIN, ANNOTATOR, USER, User
from monailabel_app.models.inference import BundleInference
from monailabel_app.models.uploads import serve_upload
from monailabel_app.models.versions import list_versions, serve_version
from monailabel_app.studies.dicom import make_segmentation, sorted_slices
from monailabel_app.studies.submission import submit_label
from monailabel_app.studies.volumes import check_image, split_suffix
from monailabel_app.validation import (
    InferenceParameters,
    SampleParameters,
    SubmissionParameters,
    check_parameters,
    parse_parameters,
    refuse_expressions,
)

LOG_LINES = 10_000  # at most, of one request for the log
COPY_BYTES = 2**20

router = APIRouter()


def add_routes(server: FastAPI) -> None:
    """Answer MONAI Label's clients."""
    server.include_router(router)


def needs(role: str) -> Callable[[Request], User]:
    """A dependency: the caller, whom the doors let in, and who must have the role."""

    def caller(request: Request) -> User:
        user: User = request.state.user
        if role not in user.roles:
            raise RequestError(403, f"the role {role!r} is required")
        return user

    return caller


AnyUser = Annotated[User, Depends(needs(USER))]
Annotator = Annotated[User, Depends(needs(ANNOTATOR))]
Admin = Annotated[User, Depends(needs(ADMIN))]
JSONParameters = Annotated[dict[str, Any] | None, Body()]


# --- the app


@router.get("/", include_in_schema=False)
def welcome() -> HTMLResponse:
    models = "".join(f"<li>{name}</li>" for name in _app().bundles)
    return HTMLResponse(
        f"<title>Rep3D</title><h1>Rep3D for MONAI Label</h1><p>Models:</p><ul>{models}</ul>"
        "<p>3D Slicer: module MONAI Label, enter this page's address as the server.</p>"
    )


@router.get("/info/")
def info(user: AnyUser) -> dict[str, Any]:
    return _app().info()


@router.get("/logs/")
def logs(user: Admin, lines: int = 300) -> PlainTextResponse:
    path = Path(_app().app_dir) / "logs/app.log"
    if not path.is_file():
        raise RequestError(404, "there is no log file")
    kept = path.read_text(encoding="utf-8", errors="replace").splitlines()[-min(max(lines, 1), LOG_LINES) :]
    return PlainTextResponse("\n".join(kept))


@router.get("/auth/")
def authentication_enabled(request: Request) -> dict[str, Any]:
    authentication = request.app.state.security.authentication
    return {
        "enabled": authentication.enabled,
        "client_id": authentication.client_id,
        "realm": authentication.realm,
    }


@router.post("/auth/token")
def token(request: Request, username: Annotated[str, Form()], password: Annotated[str, Form()]) -> dict[str, Any]:
    authentication = request.app.state.security.authentication
    if not authentication.enabled:
        return {"access_token": None, "token_type": None}
    return authentication.token(username, password)


@router.get("/auth/token/valid")
def valid_token(user: AnyUser) -> dict[str, Any]:
    return user.json()


# --- inference


@router.post("/infer/{model}")
def infer(
    user: AnyUser,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    label: Annotated[UploadFile | None, File()] = None,
    output: Literal["image", "json", "all", "dicom_seg"] | None = None,
) -> Response:
    app = _app()
    task = app.infer_task(model)
    parameters = parse_parameters(params)
    if label is not None:
        raise RequestError(400, f"model {model!r} takes no label")
    if output == "dicom_seg":
        return _answer_segmentation(task, image, parameters)
    if file is not None:
        with _received(file) as path:
            check_image(path)
            result, told = task({**parameters, "image": str(path)})
    elif session_id:
        result, told = task({**parameters, "image": str(app.sessions().image(session_id, user.username))})
    elif image:
        path = app.datastore().image(image)
        app.datastore().update_image_info(image, {"model": model})
        result, told = task({**parameters, "image": str(path)})
    else:
        raise RequestError(400, "image, file or session_id is missing")
    return _answer(Path(result), told, output)


@router.get("/batch/infer")
def batch_status(user: AnyUser, all: bool = False, check_if_running: bool = False) -> Any:
    return _status(_app().background.batches, all, check_if_running)


@router.post("/batch/infer/{model}")
def batch_start(
    user: Admin, model: str, images: Literal["all", "labeled", "unlabeled"] = "all", params: JSONParameters = None
) -> dict[str, Any]:
    refuse_expressions(params or {})
    _app().infer_task(model)
    return _app().background.start_batch(model, images, params or {}, user.username).json()


@router.delete("/batch/infer")
def batch_stop(user: Admin) -> dict[str, Any]:
    return _app().background.batches.stop().json()


# --- training


@router.get("/train/")
def training_status(user: AnyUser, all: bool = False, check_if_running: bool = False) -> Any:
    return _status(_app().background.trainings, all, check_if_running)


@router.post("/train/")
def train_all(user: Admin, params: JSONParameters = None) -> dict[str, Any]:
    """`params` holds the parameters of each model by its name. What cannot be trained does not keep others from it."""
    refuse_expressions(params or {})
    app = _app()
    app.refresh()
    answers: dict[str, dict[str, Any]] = {}
    refused: list[RequestError] = []
    for name in app.bundles:
        options = (params or {}).get(name)
        try:
            task = app.background.start_training(
                name, options if isinstance(options, dict) else {}, user.username, enqueue=True
            )
            answers[name] = {"result": task.json(), "detail": None}
        except RequestError as error:
            refused.append(error)
            answers[name] = {"result": None, "detail": error.message}
    if len(refused) == len(answers):
        raise refused[0]
    return answers


@router.post("/train/{model}")
def train(user: Admin, model: str, params: JSONParameters = None, enqueue: bool = False) -> dict[str, Any]:
    refuse_expressions(params or {})
    _app().refresh()
    return _app().background.start_training(model, params or {}, user.username, enqueue).json()


@router.delete("/train/")
def training_stop(user: Admin) -> dict[str, Any]:
    return _app().background.trainings.stop().json()


# --- images and labels


@router.get("/datastore/")
def datastore(user: AnyUser, output: Literal["stats", "all", "train"] = "stats") -> Any:
    _app().refresh()
    store = _app().datastore()
    if output == "all":
        return store.json()
    return store.datalist(full_path=False) if output == "train" else {**store.status(), "set_aside": store.set_aside()}


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image(
    user: Annotator,
    file: Annotated[UploadFile, File()],
    image: str = "",
    params: Annotated[str, Form()] = "{}",
) -> dict[str, Any]:
    parse_parameters(params)
    with _received(file) as path:
        check_image(path)
        name = image or split_suffix(PureWindowsPath(file.filename or "").name)[0]
        return {"image": _app().datastore().add_image(name, str(path), {"user": user.username})}


@router.delete("/datastore/")
@router.delete("/datastore/image")
def remove_image(user: Admin, id: str) -> dict[str, Any]:
    _app().datastore().remove_image(id)
    return {}


@router.head("/datastore/image")
@router.get("/datastore/image")
def download_image(user: AnyUser, image: str) -> FileResponse:
    path = _app().datastore().image(image)
    return FileResponse(path, filename=path.name)


@router.get("/datastore/image/info")
def image_info(user: AnyUser, image: str) -> dict[str, Any]:
    return _without_path(_app().datastore().get_image_info(image))


@router.put("/datastore/image/info")
def update_image_info(user: Annotator, image: str, info: Annotated[str, Form()] = "{}") -> dict[str, Any]:
    _app().datastore().update_image_info(image, {"told": {**parse_parameters(info), "user": user.username}})
    return {}


@router.put("/datastore/label")
def save_label(
    user: Annotator,
    image: str,
    label: Annotated[UploadFile, File()],
    tag: str = "final",
    params: Annotated[str, Form()] = "{}",
) -> dict[str, Any]:
    app = _app()
    parameters = check_parameters(SubmissionParameters, parse_parameters(params))
    told = {"user": user.username, "client_id": parameters.client_id}
    with _received(label) as path:
        label_id = submit_label(
            app.datastore(),
            app.bundles,
            image,
            path,
            tag or "final",
            told,
            names=[info.name for info in parameters.label_info or []],
            allow_empty=parameters.allow_empty,
        )
    app.refresh(wait=False)
    return {"image": image, "label": label_id}


@router.delete("/datastore/label")
def remove_label(user: Admin, id: str, tag: str) -> dict[str, Any]:
    _app().datastore().remove_label(id, tag)
    return {}


@router.head("/datastore/label")
def check_label(user: AnyUser, image: str, tag: str) -> Response:
    _app().datastore().label(image, tag)
    return Response()


@router.get("/datastore/label")
def download_label(user: AnyUser, label: str, tag: str, version: int | None = None) -> FileResponse:
    """`version` is not of MONAI Label: an earlier label, see `label_versions`."""
    store = _app().datastore()
    path = store.label(label, tag) if version is None else store.label_version(label, version)
    return FileResponse(path, filename=f"{label}.nii.gz")


@router.get("/datastore/label/info")
def label_info(user: AnyUser, label: str, tag: str) -> dict[str, Any]:
    return _app().datastore().get_label_info(label, tag)


@router.put("/datastore/label/info")
def update_label_info(user: Annotator, label: str, tag: str, info: Annotated[str, Form()] = "{}") -> dict[str, Any]:
    told = {**parse_parameters(info), "user": user.username}
    _app().datastore().update_label_info(label, tag, {"told": told})
    return {}


@router.get("/datastore/label/versions")
def label_versions(user: AnyUser, label: str) -> list[dict[str, Any]]:
    """Not of MONAI Label: every label that was ever stored for an image."""
    _app().datastore().image(label)
    return _app().datastore().versions(label)


@router.get("/datastore/dataset")
def download_dataset(user: Annotator, limit_cases: int | None = None) -> FileResponse:
    path = _app().datastore().get_dataset_archive(limit_cases)
    return FileResponse(path, filename="dataset.zip", background=BackgroundTask(os.unlink, path))


# --- sessions


@router.put("/session/")
def create_session(
    user: AnyUser, files: Annotated[list[UploadFile], File()], uncompress: bool = False, expiry: int = 0
) -> dict[str, Any]:
    if uncompress or len(files) != 1:
        raise RequestError(400, "a session takes one image file; archives are not unpacked")
    with _received(files[0]) as path:
        check_image(path)
        session = _app().sessions().create(path, user.username, expiry)
    return {"session_id": session.name, "session_info": session.json()}


@router.get("/session/{session_id}")
def get_session(user: AnyUser, session_id: str, update_ts: bool = False, image: bool = False) -> Any:
    sessions = _app().sessions()
    if image:
        path = sessions.image(session_id, user.username)
        return FileResponse(path, filename=path.name)
    return sessions.get(session_id, user.username, touch=update_ts).json()


@router.delete("/session/{session_id}")
def remove_session(user: AnyUser, session_id: str) -> dict[str, Any]:
    return _app().sessions().remove(session_id, user.username).json()


# --- active learning


@router.post("/activelearning/{strategy}")
def next_sample(user: AnyUser, strategy: str, params: JSONParameters = None) -> dict[str, Any]:
    refuse_expressions(params or {})
    model = check_parameters(SampleParameters, params or {}).model
    return _without_path(_app().next_sample({"strategy": strategy, "model": model}))


@router.get("/scoring/")
def scoring_status(user: AnyUser, all: bool = False, check_if_running: bool = False) -> Any:
    return _status(_app().background.scorings, all, check_if_running)


@router.post("/scoring/uncertainty")
def scoring_start(user: Annotator, params: JSONParameters = None) -> dict[str, Any]:
    refuse_expressions(params or {})
    return _app().background.start_scoring(check_parameters(SampleParameters, params or {}).model).json()


@router.delete("/scoring/")
def scoring_stop(user: Annotator) -> dict[str, Any]:
    return _app().background.scorings.stop().json()


# --- models


@router.get("/model/info/{model}")
def model_info(user: Admin, model: str) -> dict[str, Any]:
    _app().infer_task(model)
    found = _app().model_info(model)
    if not found:
        raise RequestError(404, f"model {model!r} has no weights yet")
    return found


@router.get("/model/{model}")
def download_model(user: Admin, model: str) -> FileResponse:
    path = _app().infer_task(model).get_path()
    if path is None:
        raise RequestError(404, f"model {model!r} has no weights yet")
    return FileResponse(path, filename=f"{model}.pt")


@router.put("/model/{model}")
def replace_model(user: Admin, model: str, file: Annotated[UploadFile, File()]) -> dict[str, Any]:
    """The new weights serve at once; those that served stay a version."""
    app = _app()
    task = app.infer_task(model)
    if not app.settings.model_upload:
        raise RequestError(403, "weights are not accepted here: the server's setting model_upload is false")
    with _received(file, ".pt") as path:
        version = serve_upload(task, path, user.username)
    return {**app.model_info(model), "version": version["version"]}


@router.get("/model/{model}/versions")
def model_versions(user: AnyUser, model: str) -> list[dict[str, Any]]:
    """Not of MONAI Label: every version of the weights, and which one serves."""
    return list_versions(_app().infer_task(model).bundle)


@router.post("/model/{model}/versions/{number}")
def serve_model_version(user: Admin, model: str, number: int) -> dict[str, Any]:
    """Not of MONAI Label: let a version of the weights serve."""
    return serve_version(_app().infer_task(model).bundle, number)


@router.get("/favicon.ico", include_in_schema=False)
def favicon() -> RedirectResponse:
    return RedirectResponse("/static/favicon.ico")


def _app() -> Any:
    return app_instance()


def _status(tasks: Any, all: bool, check_if_running: bool) -> Any:
    if check_if_running:
        task = tasks.running()
        if task is None:
            raise RequestError(404, f"no task of {tasks.kind} is running")
        return task.json()
    return [task.json() for task in tasks.all()] if all else tasks.latest().json()


def _without_path(info: dict[str, Any]) -> dict[str, Any]:
    """Clients get to know the server's files by their ids only."""
    return {key: value for key, value in info.items() if key != "path"}


@contextmanager
def _received(upload: UploadFile, suffix: str = "") -> Iterator[Path]:
    """The upload as a file under a name of our own, for as long as the context lasts.

    Args:
        suffix: of the file; empty: that of the upload's name.

    Raises:
        RequestError: a file name without a known suffix.
    """
    suffix = suffix or split_suffix(upload.filename or "")[1]
    with tempfile.TemporaryDirectory(prefix="rep3d_") as folder:
        path = Path(folder) / f"upload{suffix}"
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file, COPY_BYTES)
        yield path


def _answer_segmentation(task: BundleInference, image: str, parameters: dict[str, Any]) -> Response:
    """The label map of a DICOM series of the studies as a DICOM Segmentation.

    Raises:
        RequestError: 400, the image is no DICOM series; others as inference does.
    """
    datastore = _app().datastore()
    slices = sorted_slices(datastore.series(image))
    options = check_parameters(InferenceParameters, parameters)
    result = task.segment(datastore.image(image), device=options.device, preset=options.preset)
    segmentation = make_segmentation(slices, result.voxels, task.bundle)
    with tempfile.NamedTemporaryFile(prefix="rep3d_", suffix=".dcm", delete=False) as file:
        segmentation.save_as(file.name)
    path = Path(file.name)
    return FileResponse(
        path, media_type="application/dicom", filename=path.name, background=BackgroundTask(path.unlink)
    )


def _answer(result: Path, told: dict[str, Any], output: str | None) -> Response:
    if output == "json":
        result.unlink()
        return Response(json.dumps(told), media_type="application/json")
    if output == "image":
        return FileResponse(result, filename=result.name, background=BackgroundTask(result.unlink))
    try:
        with result.open("rb") as file:
            fields = {
                "params": (None, json.dumps(told), "application/json"),
                "image": (result.name, file, "application/octet-stream"),
            }
            encoder = MultipartEncoder(fields=fields)
            return Response(encoder.to_string(), media_type=encoder.content_type)
    finally:
        result.unlink()
