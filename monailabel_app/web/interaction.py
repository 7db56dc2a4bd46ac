"""Interactive sessions: which there are, locks, undo, their end. Users see their own, administrators all.

Work in them comes through the doors of the clients, such as `monailabel_app.web.inference`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from monailabel_app.interaction.stored_labels import MAX_LABELS, MAX_NAME
from monailabel_app.web.arguments import AnyUser, AppServices, JSONParameters
from monailabel_app.web.authentication import ADMIN, User
from monailabel_app.web.parameters import check_parameters

router = APIRouter()


class Labels(BaseModel):  # type: ignore[explicit-any]  # pydantic's
    """Names in the body, not in the address, which the audit log has."""

    labels: Annotated[list[Annotated[str, Field(max_length=MAX_NAME)]], Field(max_length=MAX_LABELS)]


@router.get("/interaction/")
def list_sessions(user: AnyUser, services: AppServices) -> list[dict[str, object]]:
    return services.interaction.list(_owner(user))


@router.get("/interaction/{session_id}")
def get_session(user: AnyUser, services: AppServices, session_id: str) -> dict[str, object]:
    return services.interaction.describe(services.interaction.get(session_id, _owner(user)))


@router.put("/interaction/{session_id}/locks")
def lock_labels(user: AnyUser, services: AppServices, session_id: str, params: JSONParameters) -> dict[str, object]:
    """Lock these labels, and no others."""
    labels = check_parameters(Labels, params).labels
    session = services.interaction.get(session_id, _owner(user))
    session.lock(labels)
    return services.interaction.describe(session)


@router.post("/interaction/{session_id}/{step}")
def take_step(
    user: AnyUser,
    services: AppServices,
    session_id: str,
    step: Literal["undo", "redo", "reset"],
    params: JSONParameters,
) -> dict[str, object]:
    """With each of these labels, or with none. What changes is told with the next answer."""
    wanted = check_parameters(Labels, params).labels
    session = services.interaction.get(session_id, _owner(user))
    take = {"undo": session.undo, "redo": session.redo, "reset": session.reset}[step]
    with session.hold():
        labels = session.known(wanted)
        for label in labels:
            take(label, answered=False)
        steps = {label: dict(zip(("undo", "redo"), session.undoable(label), strict=True)) for label in labels}
    return {**services.interaction.describe(session), "steps": steps}


@router.delete("/interaction/{session_id}")
def remove_session(user: AnyUser, services: AppServices, session_id: str) -> dict[str, object]:
    services.interaction.remove(session_id, _owner(user))
    return {}


def _owner(user: User) -> str | None:
    """Whose sessions a user may see; None: everybody's."""
    return None if ADMIN in user.roles else user.username
