"""A PACS that sends on to another address: nothing goes there, and nothing of what it holds reaches anybody."""

import pydicom
import pytest
from dicom_helpers import write_series
from strangers import stranger

from monailabel_app.dicomweb.client import Pacs, Series
from monailabel_app.errors import RequestError

PASSWORD = "the PACS's own"
SERIES = Series("1.2", "1", "CT", "P1", "", "", "", 6)


@pytest.fixture
def servers():
    """The PACS, and what only this computer may read."""
    with stranger() as pacs, stranger() as secret:
        yield pacs, secret


@pytest.fixture
def pacs(servers):
    return Pacs(f"{servers[0].url}/dicom-web", ["CT"], {}, "rep3d", PASSWORD)


def places(secret):
    """Where a PACS may send on to: its own address, another one, a name of the same computer, and nowhere."""
    return {
        "own": "/secret",
        "another": f"{secret.url}/secret",
        "name": f"http://localhost:{secret.server_port}/secret",
        "nowhere": None,
    }


def refused(call):
    with pytest.raises(RequestError, match="sends on to another address") as caught:
        call()
    assert caught.value.status == 502 and PASSWORD not in caught.value.message


@pytest.mark.parametrize("place", ["own", "another", "name", "nowhere"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status, place, pacs, servers, tmp_path):
    """Of a viewer's requests, and of the server's own searches, retrievals and submissions."""
    own, other = servers
    own.others = status, places(other)[place]
    dataset = pydicom.dcmread(write_series(tmp_path / "series", slices=1)[0])
    calls = [
        lambda: pacs.forward("GET", "studies/1/series", "", {}, None),
        lambda: pacs.forward("POST", "studies", "", {}, b"x"),
        pacs.series,
        pacs.segmentations,
        lambda: pacs.fetch(SERIES, tmp_path / "fetched"),
        lambda: pacs.instance("1", "1.2", "1.3"),
        lambda: pacs.store(dataset),
    ]
    for call in calls:
        refused(call)
    assert len(own.asked) == len(calls) and all(path.startswith("/dicom-web/") for path, _ in own.asked)
    assert other.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["series"]


def test_an_answer(pacs, servers):
    servers[0].others = 200, []
    answer = pacs.forward("GET", "studies/200", "", {}, None)
    assert (answer.status_code, answer.raw.read()) == (200, b"[]")
    answer.close()
    assert pacs.series() == {} and pacs.segmentations() == []
