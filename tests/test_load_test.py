"""What a client of the load test counts."""

import threading
from types import SimpleNamespace

import load_test
import pytest
import requests


@pytest.fixture
def client():
    return load_test.Client(0, "http://127.0.0.1:1", "any", {}, threading.Event())


def answering(status):
    return lambda *_, **__: SimpleNamespace(status_code=status, text="why")


def test_an_answer_to_come_again_has_no_time(client):
    for status, answered in ((200, True), (load_test.BUSY, False), (500, False)):
        client.session.request = answering(status)
        assert client.request("infer", "POST", "/infer/any") is answered
    assert len(client.seconds["infer"]) == client.busy["infer"] == 1
    assert client.failures == ["infer: 500 why"]


def test_a_server_that_is_gone_is_a_failure(client):
    assert client.request("info", "GET", "/info/") is False
    assert len(client.failures) == 1 and client.failures[0].startswith("info: ")


def test_a_client_goes_on_after_a_failure(client, monkeypatch):
    def break_off(*_, **__):
        client.stopping.set()
        raise requests.Timeout("no answer")

    client.session.request = break_off
    client.images = {"a": None}
    monkeypatch.setattr(client, "submit", lambda image: None)
    client.run()
    assert client.failures == [f"{what}: no answer" for what in ("infer", "fetch", "info")]
