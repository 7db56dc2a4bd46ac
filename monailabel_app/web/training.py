"""Trainings on the submitted labels, in the background."""

from __future__ import annotations

from fastapi import APIRouter

from monailabel_app.errors import RequestError
from monailabel_app.web.answers import TaskStatus, task_status
from monailabel_app.web.arguments import Admin, AnyUser, AppServices, JSONParameters
from monailabel_app.web.parameters import check_parameters

router = APIRouter()


@router.get("/train/")
def training_status(
    user: AnyUser, services: AppServices, all: bool = False, check_if_running: bool = False
) -> TaskStatus:
    return task_status(services.background.trainings, all=all, check_if_running=check_if_running)


@router.post("/train/")
def train_all(user: Admin, services: AppServices, params: JSONParameters) -> dict[str, dict[str, object]]:
    """`params` holds the parameters of each model by its name. What cannot be trained does not keep others from it."""
    services.synchronize()
    answers: dict[str, dict[str, object]] = {}
    refused: list[RequestError] = []
    for name in services.trainers:
        own = params.get(name)
        try:
            schema = services.background.training_parameters(name)
            options = check_parameters(schema, own if isinstance(own, dict) else {})
            task = services.background.start_training(name, options, user.username, enqueue=True)
            answers[name] = {"result": task.json(), "detail": None}
        except RequestError as error:
            refused.append(error)
            answers[name] = {"result": None, "detail": error.message}
    if len(refused) == len(answers):
        raise refused[0] if refused else RequestError(404, "no bundle is served that can be trained")
    return answers


@router.post("/train/{model}")
def train(
    user: Admin, services: AppServices, model: str, params: JSONParameters, enqueue: bool = False
) -> dict[str, object]:
    services.synchronize()
    options = check_parameters(services.background.training_parameters(model), params)
    return services.background.start_training(model, options, user.username, enqueue).json()


@router.delete("/train/")
def training_stop(user: Admin, services: AppServices) -> dict[str, object]:
    return services.background.trainings.stop().json()
