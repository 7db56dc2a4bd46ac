"""What callers are told when a request is refused, and when something fails inside."""

import logging
import pickle
from typing import Annotated

import pytest
from asgi_helpers import ask
from fastapi import Depends, FastAPI

from monailabel_app.errors import RequestError
from monailabel_app.web.errors import ErrorAnswers, answer_errors


def failing(error):
    """A server whose handler raises, and one whose handler's dependency does."""

    def fail():
        raise error

    def depend(nothing: Annotated[None, Depends(fail)]):
        pass

    server = FastAPI()
    answer_errors(server)
    server.add_api_route("/fail", fail)
    server.add_api_route("/depend", depend)
    return ErrorAnswers(server)


def test_an_error_of_ours(caplog):
    """A reference to the log, once, and nothing of the error."""
    app = failing(RuntimeError("secret of the server"))
    with caplog.at_level(logging.ERROR):
        status, _, answer = ask(app, path="/fail")
    (record,) = [record for record in caplog.records if record.name == "monailabel_app.web.errors"]
    reference = record.getMessage().split()[-1]
    assert status == 500 and answer == {"detail": f"internal error {reference}, see the server's log"}
    assert "secret" in caplog.text and ask(app, path="/other")[0] == 404


@pytest.mark.parametrize("path", ["/fail", "/depend"])
@pytest.mark.parametrize("status", [400, 401, 404, 429, 502])
def test_a_refusal(status, path):
    answered, headers, answer = ask(failing(RequestError(status, "what is wrong")), path=path)
    assert (answered, answer) == (status, {"detail": "what is wrong"})
    assert headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert headers["x-content-type-options"] == "nosniff"


def test_a_refusal_travels():
    """Between processes and into logs, with its message alone."""
    error = pickle.loads(pickle.dumps(RequestError(404, "there is no scan")))
    assert (error.status, error.message, str(error)) == (404, "there is no scan", "there is no scan")
