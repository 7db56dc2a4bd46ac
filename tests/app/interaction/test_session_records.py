"""What is recorded of a session's labels: as it lies on disk, and where a label gets another name or a copy."""

import json
from dataclasses import replace

import pytest

from monailabel_app.interaction.record import LabelRecord, SessionRecord

ON_DISK = {
    "owner": "ann",
    "client": "slicer",
    "kind": "study",
    "image": "scan",
    "stamp": "1 2",
    "shape": [40, 30, 24],
    "spacing": [1.0, 1.0, 2.0],
    "id": "00000000-0000-4000-8000-000000000000",
    "created": 1700000000,
    "digest": "0123456789abcdef",
    "labels": {"liver": 3, "spleen": 0, "cyst": 7},
    "locked": ["cyst", "liver"],
    "begun": {"liver": ["ct fast 1", 2]},
    "went_on": {"liver": "another", "cyst": ""},
    "background": {"liver": [], "cyst": [[1.0, 2.0, 3.5]]},
    "coarse": ["spleen", "cyst"],
}
LIVER = LabelRecord(3, "ct fast 1", 2, "another", [])
CYST = LabelRecord(7, went_on="", background=[[1.0, 2.0, 3.5]])


@pytest.fixture
def record():
    return SessionRecord.from_json({**ON_DISK, "format": 2, "of a newer server": 1})


def test_what_lies_on_disk_is_read_and_written_again(record):
    assert record.labels == {"liver": LIVER, "spleen": LabelRecord(), "cyst": CYST}
    assert list(record.labels) == ["liver", "spleen", "cyst"] and record.locked == ("cyst", "liver")
    assert json.loads(json.dumps(record.to_json())) == ON_DISK


def test_a_record_without_what_later_servers_added(record):
    tables = ("labels", "locked", "begun", "went_on", "background", "coarse", "digest")
    earlier = SessionRecord.from_json({name: value for name, value in ON_DISK.items() if name not in tables})
    assert earlier.labels == {} and earlier.locked == earlier.coarse == () and earlier.digest == ""
    with pytest.raises(TypeError, match="owner"):
        SessionRecord.from_json({"id": record.id})


def test_all_that_is_recorded_goes_with_a_name(record):
    renamed = record.renamed("cyst", "tumor")
    assert list(renamed.labels.items()) == [("liver", LIVER), ("spleen", LabelRecord()), ("tumor", CYST)]
    assert renamed.locked == ("tumor", "liver") and renamed.coarse == ("spleen", "tumor")


def test_a_copy_has_no_file_yet_and_the_lock(record):
    copied = record.copied("liver", "tumor")
    assert list(copied.labels) == ["liver", "spleen", "cyst", "tumor"] and copied.labels["liver"] == LIVER
    assert copied.labels["tumor"] == replace(LIVER, number=0)
    assert copied.locked == ("cyst", "tumor") and copied.coarse == record.coarse
