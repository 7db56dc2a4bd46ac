"""Which image to label next, and the scores behind it."""

from __future__ import annotations

from fastapi import APIRouter, Request

from monailabel_app.models.active_learning import pick_sample
from monailabel_app.web.answers import TaskStatus, image_answer, task_status
from monailabel_app.web.arguments import Annotator, AnyUser, AppServices, JSONParameters
from monailabel_app.web.parameters import SampleParameters, check_parameters

router = APIRouter()


@router.post("/activelearning/{strategy}")
def next_sample(
    user: AnyUser, services: AppServices, request: Request, strategy: str, params: JSONParameters
) -> dict[str, object]:
    model = check_parameters(SampleParameters, params).model
    services.synchronize()
    services.background.keep_scores()
    wanted = {"strategy": strategy, "model": model}
    return image_answer(pick_sample(services.strategies, wanted, services.studies), request)


@router.get("/scoring/")
def scoring_status(
    user: AnyUser, services: AppServices, all: bool = False, check_if_running: bool = False
) -> TaskStatus:
    return task_status(services.background.scorings, all=all, check_if_running=check_if_running)


@router.post("/scoring/uncertainty")
def scoring_start(user: Annotator, services: AppServices, params: JSONParameters) -> dict[str, object]:
    return services.background.start_scoring(check_parameters(SampleParameters, params).model).json()


@router.delete("/scoring/")
def scoring_stop(user: Annotator, services: AppServices) -> dict[str, object]:
    return services.background.scorings.stop().json()
