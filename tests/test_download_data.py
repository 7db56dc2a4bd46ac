"""scripts/download_data.py, but for the downloads."""

import download_data
import pytest


@pytest.mark.parametrize(
    ("dataset", "said"),
    [
        ("kits", "kits is not downloaded by this script. Clone https://github.com/neheller/kits21"),
        ("interactive", "interactive is not downloaded by this script. Volumes of procedural anatomy"),
    ],
)
def test_where_to_get_what_it_does_not_download(dataset, said, tmp_path):
    with pytest.raises(SystemExit, match=said):
        download_data.main(dataset, str(tmp_path))
