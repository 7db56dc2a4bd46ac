"""Interactive sessions: which there are, what is locked in them, their end. Users see their own, administrators all.

Work in them comes through the doors of the clients, such as `monailabel_app.web.inference`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field

from monailabel_app.interaction.session import MAX_LABELS, MAX_NAME
from monailabel_app.web.arguments import AnyUser, AppServices, JSONParameters
from monailabel_app.web.authentication import ADMIN, User
from monailabel_app.web.parameters import check_parameters

router = APIRouter()


class Locks(BaseModel):  # type: ignore[explicit-any]  # pydantic's
    """The labels that are locked; all others are not."""

    labels: Annotated[list[Annotated[str, Field(max_length=MAX_NAME)]], Field(max_length=MAX_LABELS)]


@router.get("/interaction/")
def list_sessions(user: AnyUser, services: AppServices) -> list[dict[str, object]]:
    return services.interaction.list(_owner(user))


@router.get("/interaction/{session_id}")
def get_session(user: AnyUser, services: AppServices, session_id: str) -> dict[str, object]:
    return services.interaction.describe(services.interaction.get(session_id, _owner(user)))


@router.put("/interaction/{session_id}/locks")
def lock_labels(user: AnyUser, services: AppServices, session_id: str, params: JSONParameters) -> dict[str, object]:
    locks = check_parameters(Locks, params)
    session = services.interaction.get(session_id, _owner(user))
    session.lock(locks.labels)
    return services.interaction.describe(session)


@router.delete("/interaction/{session_id}")
def remove_session(user: AnyUser, services: AppServices, session_id: str) -> dict[str, object]:
    services.interaction.remove(session_id, _owner(user))
    return {}


def _owner(user: User) -> str | None:
    """Whose sessions a user may see; None: everybody's."""
    return None if ADMIN in user.roles else user.username
