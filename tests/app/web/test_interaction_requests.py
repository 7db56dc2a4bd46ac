"""Listing, locking, undoing and deleting of interactive sessions: who may, and what the audit log has of it."""

import json
import threading
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from asgi_helpers import ask
from test_resources import Roles

from monailabel_app.bundles import Bundle
from monailabel_app.interaction.registry import InteractiveSessions
from monailabel_app.settings import read_settings
from monailabel_app.studies.folder import StudiesFolder
from monailabel_app.studies.sessions import Sessions
from monailabel_app.web.authentication import ADMIN, ANNOTATOR, USER, User
from monailabel_app.web.server import make_server
from rep3d.interactive.prompts import point

SHAPE = (12, 11, 10)


class Balls:
    """Marks the ball of each point."""

    def served(self):
        return None

    size = 16

    def __init__(self):
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = threading.Event()

    def check(self):
        pass

    def answering(self, priority=0):
        class Answering:
            def __enter__(_):
                return self.answer

            def __exit__(*_):
                pass

        return Answering()

    def answer(self, channels):
        self.asked.set()
        assert self.go_on.wait(30)
        return channels[:, 2:3] - 0.5


@pytest.fixture
def services(tmp_path):
    studies = tmp_path / "studies"
    studies.mkdir()
    (tmp_path / "logs").mkdir()
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), studies / "patient7.nii.gz")
    store, lent = StudiesFolder(studies), Sessions(tmp_path / "lent")
    interaction = InteractiveSessions(studies / ".rep3d/interaction", Balls(), store, lent, 7 * 86400)
    return SimpleNamespace(
        app_dir=tmp_path,
        settings=read_settings(tmp_path, {}),
        studies=store,
        interaction=interaction,
        bundles={"liver": Bundle(tmp_path, {"liver": 1}, "", "")},
        synchronize_soon=lambda: None,
    )


@pytest.fixture
def session(services):
    one = services.interaction.of_study("ann", "slicer", "patient7")
    one.paint("secret", np.ones(SHAPE, bool))
    return one


def as_user(services, name, *roles):
    authentication = Roles()
    authentication._user = User(name, roles)
    server = make_server(services, authentication)
    return lambda method, path, body=None: ask(
        server, method, path, json.dumps(body).encode() if body is not None else b"", content_type="application/json"
    )[::2]


def test_users_see_their_own_and_administrators_all(services, session):
    ann, bob, root = (
        as_user(services, *who) for who in (("ann", USER), ("bob", USER, ANNOTATOR), ("root", ADMIN, USER))
    )
    for caller in (ann, root):
        status, (told,) = caller("GET", "/interaction/")
        assert status == 200 and told["id"] == session.id and told["image"] == "patient7" and told["owner"] == "ann"
        assert told["labels"] == ["secret"] and told["locked"] == [] and told["expires"] > told["used"]
        assert caller("GET", f"/interaction/{session.id}") == (200, told)
    assert bob("GET", "/interaction/") == (200, [])
    for method, path, body in (("GET", "", None), ("DELETE", "", None), ("PUT", "/locks", {"labels": []})):
        status, answer = bob(method, f"/interaction/{session.id}{path}", body)
        assert (status, answer["detail"]) == (404, "there is no such session")
    assert bob("DELETE", f"/interaction/{session.id}")[0] == 404
    assert root("DELETE", f"/interaction/{session.id}") == (200, {}) and ann("GET", "/interaction/") == (200, [])


def test_locks(services, session):
    ann = as_user(services, "ann", USER)
    address = f"/interaction/{session.id}/locks"
    status, told = ann("PUT", address, {"labels": ["secret", "secret"]})
    assert (status, told["locked"]) == (200, ["secret"]) and session.locked == ("secret",)
    for body, expected in (
        ({"labels": ["absent"]}, 404),
        ({}, 400),
        ({"labels": "secret"}, 400),
        ({"labels": [1]}, 400),
        ({"labels": ["$1"]}, 400),
        ({"labels": ["x"] * 300}, 400),
        ([], 422),
    ):
        status, answer = ann("PUT", address, body)
        assert status == expected and "\n" not in answer["detail"] and session.locked == ("secret",), body
    assert ann("PUT", address, {"labels": []})[1]["locked"] == []


def test_steps_are_taken_back_and_again(services, session):
    ann, bob = as_user(services, "ann", USER), as_user(services, "bob", USER)
    session.paint("secret", np.zeros(SHAPE, bool))
    session.paint("liver", np.ones(SHAPE, bool))
    address, both = f"/interaction/{session.id}", {"labels": ["secret", "liver", "secret"]}
    status, told = ann("POST", f"{address}/undo", both)
    assert (status, told["labels"]) == (200, ["secret", "liver"])
    assert told["steps"] == {"secret": {"undo": 1, "redo": 1}, "liver": {"undo": 0, "redo": 1}}
    assert session.mask("secret").all() and not session.mask("liver").any() and not session.told("secret").any()
    assert ann("POST", f"{address}/redo", {"labels": ["liver"]})[1]["steps"] == {"liver": {"undo": 1, "redo": 0}}
    assert session.mask("liver").all()
    for path, body, expected in (
        ("undo", {"labels": ["liver", "absent"]}, 404),
        ("reset", {}, 400),
        ("reset", {"labels": "liver"}, 400),
        ("anything", {"labels": ["liver"]}, 422),
    ):
        status, answer = ann("POST", f"{address}/{path}", body)
        assert status == expected and "\n" not in answer["detail"] and session.undoable("liver") == (1, 0), body
    assert bob("POST", f"{address}/reset", both)[0] == 404 and session.mask("liver").all()
    assert ann("POST", f"{address}/reset", both)[1]["steps"]["liver"] == {"undo": 0, "redo": 0}
    assert session.labels == ("secret", "liver") and not session.mask("liver").any()


def test_the_audit_log_has_it_without_names(services, session):
    ann = as_user(services, "ann", USER)
    kept = services.interaction.of_study("ann", "ohif", "patient7")
    ann("PUT", f"/interaction/{session.id}/locks", {"labels": ["secret"]})
    ann("POST", f"/interaction/{session.id}/undo", {"labels": ["secret"]})
    ann("DELETE", f"/interaction/{session.id}")
    services.interaction.expiry = -1
    services.interaction.remove_expired()
    text = (services.app_dir / "logs/audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    events = [(line["event"], line["session"], line["user"]) for line in lines if "event" in line]
    assert events == [
        ("interactive session begins", kept.id, "ann"),
        ("interactive session deleted", session.id, "ann"),
        ("interactive session expired", kept.id, "ann"),
    ]
    assert [line["method"] for line in lines if "path" in line] == ["PUT", "POST", "DELETE"]
    assert "secret" not in text and "patient7" not in text


def test_others_are_answered_while_a_click_computes(services, session):
    network, ann = services.interaction.network, as_user(services, "ann", USER)
    network.go_on.clear()
    click = threading.Thread(target=session.show, args=("secret", [point((5, 5, 5), (1, 1, 1))]))
    click.start()
    assert network.asked.wait(30)
    assert ann("GET", "/interaction/")[1][0]["id"] == session.id  # it would wait for ever
    assert ann("GET", f"/interaction/{session.id}")[0] == 200
    assert services.interaction.of_study("ann", "slicer", "patient7") is session
    other = services.interaction.of_study("bob", "slicer", "patient7")
    assert other.paint("liver", np.ones(SHAPE, bool)).changed
    network.go_on.set()
    click.join(30)
    assert session.prompts("secret")


def test_a_submitted_label_keeps_the_prompts(services, session, tmp_path):
    session.show("liver", [point((5, 5, 5), (1, 1, 1))])
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), path)
    boundary = "limit"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="label"; filename="label.nii.gz"\r\n\r\n'.encode()
        + path.read_bytes()
        + f"\r\n--{boundary}--\r\n".encode()
    )
    server = make_server(services, Roles(ANNOTATOR, USER))
    told = {"content_type": f"multipart/form-data; boundary={boundary}"}
    assert ask(server, "PUT", "/datastore/label", body, query=b"image=patient7&tag=final", **told)[0] == 200
    kept = json.loads((tmp_path / "studies/labels/versions/patient7/0001.prompts.json").read_text())
    assert kept[0]["labels"]["liver"][0]["positions"] == [[5, 5, 5]] and kept[0]["session"] == session.id


def test_an_images_sessions_go_with_it(services, session):
    root = as_user(services, "root", ADMIN, USER)
    server = make_server(services, Roles(ADMIN, USER))
    assert ask(server, "DELETE", "/datastore/image", query=b"id=patient7")[0] == 200
    assert root("GET", "/interaction/") == (200, [])
