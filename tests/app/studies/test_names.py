import pytest

from rep3d.data.image_ids import is_plain


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a\0b", "a\n", "a" * 201, "x..y", "a.", "a ", "CON", "nul.x"],
)
def test_names_stay_in_their_folder(name):
    assert not is_plain(name)


@pytest.mark.parametrize("name", ["case_001", "Größe 1", "1.2.840.113654", "a-b(2)"])
def test_plain_names(name):
    assert is_plain(name)
