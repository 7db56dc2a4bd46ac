"""Every address that the server answers, and who may use it."""

from pathlib import Path

import pytest
from asgi_helpers import ask

from monailabel_app.errors import RequestError
from monailabel_app.settings import read_settings
from monailabel_app.web.authentication import ADMIN, ANNOTATOR, ROLES, USER, User
from monailabel_app.web.server import RESOURCES, make_server

NOBODY = ""
ROLE_OF = {
    "GET /": NOBODY,
    "GET /info/": USER,
    "GET /logs/": ADMIN,
    "GET /auth/": NOBODY,
    "POST /auth/token": NOBODY,
    "GET /auth/token/valid": USER,
    "POST /infer/{model}": USER,
    "GET /interaction/": USER,
    "GET /interaction/{session_id}": USER,
    "PUT /interaction/{session_id}/locks": USER,
    "POST /interaction/{session_id}/{step}": USER,
    "DELETE /interaction/{session_id}": USER,
    "GET /batch/infer": USER,
    "POST /batch/infer/{model}": ADMIN,
    "DELETE /batch/infer": ADMIN,
    "GET /train/": USER,
    "POST /train/": ADMIN,
    "POST /train/{model}": ADMIN,
    "DELETE /train/": ADMIN,
    "GET /datastore/": USER,
    "PUT /datastore/": ANNOTATOR,
    "PUT /datastore/image": ANNOTATOR,
    "DELETE /datastore/": ADMIN,
    "DELETE /datastore/image": ADMIN,
    "HEAD /datastore/image": USER,
    "GET /datastore/image": USER,
    "GET /datastore/image/info": USER,
    "PUT /datastore/image/info": ANNOTATOR,
    "PUT /datastore/label": ANNOTATOR,
    "DELETE /datastore/label": ADMIN,
    "HEAD /datastore/label": USER,
    "GET /datastore/label": USER,
    "GET /datastore/label/info": USER,
    "PUT /datastore/label/info": ANNOTATOR,
    "GET /datastore/label/versions": USER,
    "GET /datastore/dataset": ANNOTATOR,
    "PUT /session/": USER,
    "GET /session/{session_id}": USER,
    "DELETE /session/{session_id}": USER,
    "POST /activelearning/{strategy}": USER,
    "GET /scoring/": USER,
    "POST /scoring/uncertainty": ANNOTATOR,
    "DELETE /scoring/": ANNOTATOR,
    "GET /model/info/{model}": ADMIN,
    "GET /model/{model}": ADMIN,
    "PUT /model/{model}": ADMIN,
    "GET /model/{model}/versions": USER,
    "POST /model/{model}/versions/{number}": ADMIN,
    "GET /nninteractive/healthz": NOBODY,
    **{f"GET /nninteractive/{name}": USER for name in ("capabilities", "lease_status")},
    **{
        f"POST /nninteractive/{name}": USER
        for name in ("claim", "release", "heartbeat", "set_image", "predict", "undo")
    },
    **{f"POST /nninteractive/set_{name}": USER for name in ("target_buffer", "do_autozoom")},
    **{
        f"POST /nninteractive/add_{name}_interaction": USER
        for name in ("point", "bbox", "scribble", "lasso", "initial_seg")
    },
    "POST /nninteractive/reset_interactions": USER,
    "GET /favicon.ico": NOBODY,
    "GET /proxy/dicom/{service}/{path:path}": USER,
    "POST /proxy/dicom/{service}/{path:path}": USER,
}
LET_IN = 418


class NoServices:
    """Answers whatever a handler wants from it with a status of its own."""

    def __init__(self, app_dir: Path) -> None:
        self.app_dir = app_dir
        self.settings = read_settings(app_dir, {})

    def __getattr__(self, name):
        raise RequestError(LET_IN, name)


class Roles:
    """Everybody has these roles."""

    enabled, challenge, guards_viewer, client_id, realm = True, "Bearer", False, "", ""

    def __init__(self, *roles: str) -> None:
        self._user = User("ann", roles)

    def user(self, *_):
        return self._user

    def token(self, *_):
        raise RequestError(LET_IN, "")


def test_nothing_else_is_answered():
    found = [f"{method} {route.path}" for part in RESOURCES for route in part.router.routes for method in route.methods]
    assert sorted(found) == sorted(ROLE_OF)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One for callers without a role, and one for each role."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "logs").mkdir()
    return {roles: make_server(NoServices(folder), Roles(*roles)) for roles in [(), *((role,) for role in ROLES)]}


@pytest.mark.parametrize("address", ROLE_OF)
def test_roles(address, servers):
    method, path = address.replace("{service}", "wado").replace("{number}", "1").split()
    for roles, server in servers.items():
        status = ask(server, method, path)[0]
        assert (status == 403) == (bool(ROLE_OF[address]) and ROLE_OF[address] not in roles), (roles, status)
        assert status != 500


@pytest.mark.parametrize(
    "path", ["/batch/infer/kits", "/train/", "/train/kits", "/activelearning/first", "/scoring/uncertainty"]
)
def test_bodies_are_data(path, tmp_path):
    (tmp_path / "logs").mkdir()
    body = b'{"device": "$1"}'
    server = make_server(NoServices(tmp_path), Roles(*ROLES))
    status, _, answer = ask(server, "POST", path, body, content_type="application/json")
    assert status == 400 and "expressions are not accepted" in answer["detail"]
