"""Parameters of requests: what is data, and what a config would evaluate."""

import json

import pytest
from asgi_helpers import ask
from fastapi import FastAPI

from monailabel_app.errors import RequestError
from monailabel_app.models.parameters import InferenceParameters
from monailabel_app.web.arguments import JSONParameters
from monailabel_app.web.errors import answer_errors
from monailabel_app.web.parameters import MAX_PARAMETERS, check_parameters, parse_parameters


@pytest.mark.parametrize(
    "parameters",
    [
        {"preset": "$__import__('os').system('true')"},
        {"preset": "  $1"},
        {"device": "@network_def"},
        {"device": "%configs/train.json::network_def"},
        {"deep": [{"er": ["$1"]}]},
        {"$key": 1},
        {"x": {"_target_": "os.system", "command": "true"}},
        {"image": "/etc/passwd"},
        {"image_path": "a"},
        {"model_filename": "other.pt"},
        {"bundle_root": "."},
        {"nested": {"label": "x"}},
    ],
    ids=str,
)
def test_nothing_reaches_a_config(parameters):
    with pytest.raises(RequestError) as caught:
        parse_parameters(json.dumps(parameters))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("[1]", 400),
        ("{", 400),
        ("null", 400),
        ("[" * 100_000, 413),
        ("[" * 20_000, 400),
        ('{"a": ' * 20 + "1" + "}" * 20, 400),
        (json.dumps({"a": "x" * MAX_PARAMETERS}), 413),
    ],
    ids=["list", "broken", "null", "long", "deep list", "deep", "long text"],
)
def test_odd_parameters(text, status):
    with pytest.raises(RequestError) as caught:
        parse_parameters(text)
    assert caught.value.status == status


def test_unknown_parameters_are_ignored():
    told = parse_parameters('{"preset": "fast", "client_id": "user@host", "roi_size": [1, 2], "save_label": true}')
    assert check_parameters(InferenceParameters, told) == InferenceParameters(preset="fast")


@pytest.mark.parametrize(
    ("name", "value"),
    [("preset", "best"), ("result_extension", ".sh"), ("result_dtype", "float32"), ("device", ["cpu"])],
)
def test_values_are_checked(name, value):
    with pytest.raises(RequestError, match=name):
        check_parameters(InferenceParameters, {name: value})


@pytest.mark.parametrize(
    "label", ["aortic root", "nerve root", "optic path", "dir of x", "kidney url", "Root of aorta"]
)
def test_points_of_labels_whose_names_end_as_places_do(label):
    assert parse_parameters(json.dumps({label: [[1, 2, 3]]})) == {label: [[1, 2, 3]]}


@pytest.mark.parametrize(
    "text",
    [
        r'{"note": "\ud800"}',
        r'{"\udfff": 1}',
        r'{"a": [{"b": "x\udc00y"}]}',
    ],
)
def test_what_cannot_be_told_again(text):
    """One such note would fail every later listing."""
    with pytest.raises(RequestError, match="half a surrogate pair") as caught:
        parse_parameters(text)
    assert caught.value.status == 400
    caught.value.message.encode()


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_named(number):
    with pytest.raises(RequestError, match=r"params\['liver'\]\[1\]\[2\] is (nan|-?inf), expected a finite number"):
        parse_parameters(f'{{"liver": [[1, 2, 3], [4, 5, {number}]]}}')


def test_a_key_is_accepted_where_it_is_wanted():
    assert parse_parameters('{"label": "liver"}', accepted=("label",)) == {"label": "liver"}
    for text in ('{"label": "liver"}', '{"x": {"label": "liver"}}'):
        with pytest.raises(RequestError, match="'label'"):
            parse_parameters(text, accepted=("label",) if "x" in text else ())


def test_pairs_of_surrogates_are_characters():
    assert parse_parameters(r'{"note": "\ud83d\ude00"}') == {"note": "\N{GRINNING FACE}"}


@pytest.mark.parametrize("body", [rb'{"note": "\ud800"}', rb'{"\ud800": 1}', b'{"a": NaN}', rb'["\ud800"]'])
def test_a_body_that_cannot_be_told_again(body):
    server = FastAPI()
    answer_errors(server)

    def store(params: JSONParameters) -> dict:
        return params

    server.add_api_route("/store", store, methods=["POST"])
    status, _, answer = ask(server, "POST", "/store", body, content_type="application/json")
    assert status in (400, 422) and answer["detail"]
