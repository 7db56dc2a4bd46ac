import pytest

from monailabel_app.errors import RequestError
from monailabel_app.studies.names import check_name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a\0b", "a\n", "a" * 201, "x..y", "a.", "a ", "CON", "nul.x"],
)
def test_names_stay_in_their_folder(name):
    with pytest.raises(RequestError, match="image is .*, expected a plain name"):
        check_name(name, "image")


@pytest.mark.parametrize("name", ["case_001", "Größe 1", "1.2.840.113654", "a-b(2)"])
def test_plain_names(name):
    assert check_name(name, "image") == name
