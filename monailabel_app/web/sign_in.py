"""How clients find out whether they must sign in, and do."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request

from monailabel_app.web.arguments import AnyUser, AppAuthentication

router = APIRouter()


@router.get("/auth/")
def authentication_enabled(authentication: AppAuthentication) -> dict[str, object]:
    return {
        "enabled": authentication.enabled,
        "client_id": authentication.client_id,
        "realm": authentication.realm,
    }


@router.post("/auth/token")
def token(
    request: Request,
    authentication: AppAuthentication,
    username: Annotated[str, Form()],
    password: Annotated[str, Form()],
) -> dict[str, object]:
    request.state.tried = username
    if not authentication.enabled:
        return {"access_token": None, "token_type": None}
    return authentication.token(username, password, request.client.host if request.client else "")


@router.get("/auth/token/valid")
def valid_token(user: AnyUser) -> dict[str, object]:
    return user.json()
