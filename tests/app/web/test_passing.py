"""Temporary files go with their answers, whatever becomes of these."""

import pytest
from asgi_helpers import ask

from monailabel_app.web.passing import PassingFile


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "answer.json"
    path.write_text('{"all": "of it"}')
    return path


def server(path, send_instead=None):
    """Which answers with the file."""

    async def app(scope, receive, send):
        await PassingFile(path)({**scope, "asgi": {"spec_version": "2.4"}}, receive, send_instead or send)

    return app


@pytest.mark.parametrize("wanted", ["", "bytes=5-9", "bytes=999-", "bytes=x", "lines=1-2"])
def test_a_part_is_never_answered(wanted, path):
    """The next request's file would be another one, whose parts must not be joined to this one's."""
    status, headers, said = ask(server(path), **({"range": wanted} if wanted else {}))
    assert (status, said, headers["accept-ranges"]) == (200, {"all": "of it"}, "none")
    assert headers["content-disposition"] == 'attachment; filename="answer.json"'
    assert not path.exists()


def test_a_client_that_has_gone(path):
    async def hang_up(message):
        raise ConnectionError("the client has gone")

    with pytest.raises(ConnectionError, match="has gone"):
        ask(server(path, hang_up))
    assert not path.exists()
