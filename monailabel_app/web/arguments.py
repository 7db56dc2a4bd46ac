"""What handlers are given beside a request's own parameters: the services, and who calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Body, Depends, Request

from monailabel_app.errors import RequestError
from monailabel_app.services import Services
from monailabel_app.web.authentication import ADMIN, ANNOTATOR, USER, Authentication, User
from monailabel_app.web.parameters import check_content


async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def authentication_of(request: Request) -> Authentication:
    authentication: Authentication = request.app.state.authentication
    return authentication


def needs(role: str) -> Callable[[Request], Awaitable[User]]:
    """A dependency: the caller, whom `security.Guard` let in, and who must have the role."""

    async def caller(request: Request) -> User:
        user: User = request.state.user
        if role not in user.roles:
            raise RequestError(403, f"the role {role!r} is required")
        return user

    return caller


def body_parameters(params: Annotated[dict[str, object] | None, Body()] = None) -> dict[str, object]:
    """A dependency: the JSON object that is the request's body; see `check_content`."""
    check_content(params or {})
    return params or {}


AppServices = Annotated[Services, Depends(services_of)]
AppAuthentication = Annotated[Authentication, Depends(authentication_of)]
JSONParameters = Annotated[dict[str, object], Depends(body_parameters)]
AnyUser = Annotated[User, Depends(needs(USER))]
Annotator = Annotated[User, Depends(needs(ANNOTATOR))]
Admin = Annotated[User, Depends(needs(ADMIN))]
