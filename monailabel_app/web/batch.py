"""Segmentations of many images of the studies, in the background."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.web.answers import TaskStatus, task_status
from monailabel_app.web.arguments import Admin, AnyUser, AppServices, JSONParameters
from monailabel_app.web.parameters import check_parameters

router = APIRouter()


@router.get("/batch/infer")
def batch_status(user: AnyUser, services: AppServices, all: bool = False, check_if_running: bool = False) -> TaskStatus:
    return task_status(services.background.batches, all=all, check_if_running=check_if_running)


@router.post("/batch/infer/{model}")
def batch_start(
    user: Admin,
    services: AppServices,
    model: str,
    params: JSONParameters,
    images: Literal["all", "labeled", "unlabeled"] = "all",
) -> dict[str, object]:
    services.model(model)
    options = check_parameters(InferenceParameters, params)
    request = {"model": model, "images": images, **params}
    return services.background.start_batch(model, images, options, user.username, request).json()


@router.delete("/batch/infer")
def batch_stop(user: Admin, services: AppServices) -> dict[str, object]:
    return services.background.batches.stop().json()
