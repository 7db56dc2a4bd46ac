"""What is told of submitted labels."""

import hashlib

import pytest

from rep3d.data.submissions import checksum, describe_absent, describe_exchanged, first_of


def test_a_checksum_as_clients_of_monai_label_know_it(tmp_path):
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"voxels" * 100_000)
    assert checksum(path) == f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_what_few_labels_lack_comes_first():
    lacking = {"tumor": ["a", "b", "c"], "cyst": ["b"], "vessel": ["c", "a"], "duct": ["a", "b", "c", "d"]}
    assert describe_absent(lacking, 4) == (
        "what a label does not show counts as background: no cyst in 1 of 4 label(s), such as b; "
        "no vessel in 2 of 4 label(s), such as c; no tumor in 3 of 4 label(s), such as a; ..."
    )
    assert describe_absent({}, 4) == ""


def test_exchanged_images():
    told = "2 image(s) are other files than those that were labelled, check them: a; b"
    assert describe_exchanged(["a", "b"]) == told and describe_exchanged([]) == ""


@pytest.mark.parametrize(("count", "told"), [(1, "0"), (3, "0; 1; 2"), (4, "0; 1; 2; ...")])
def test_the_first_of_several(count, told):
    assert first_of(list(map(str, range(count)))) == told
