"""What a second server, kill -9 and a full disk leave behind."""

import shutil

import pytest
from app_helpers import Server, small_bundle

from monailabel_app.locks import lock_folders

MODEL = "msd_hippocampus"


# --- a second server


def test_one_server_at_a_time(material, studies, tmp_path):
    """On a studies folder, and on a bundle; also after the first was killed."""
    bundle, other = (small_bundle(tmp_path / name, MODEL) for name in ("bundles", "others"))
    quick = {"models": MODEL, "warm_up": "false", "scoring": "false"}
    with Server(tmp_path, bundles=str(bundle.parent), **quick) as first:
        same_bundle = Server(tmp_path / "second", bundles=str(bundle.parent), **quick)
        with pytest.raises(RuntimeError, match=f"another server works on {bundle}"):
            same_bundle.start()
        same_studies = Server(tmp_path / "third", bundles=str(other.parent), **quick)
        same_studies.command[same_studies.command.index("--studies") + 1] = str(studies)
        with pytest.raises(RuntimeError, match=f"another server works on {studies}"):
            same_studies.start()
        assert first.request("GET", "/info/").status_code == 200
        first.stop(kill=True)
        same_studies.start().stop()


def test_locks(tmp_path):
    kept = lock_folders([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match=f"another server works on {tmp_path / 'b'}"):
        lock_folders([tmp_path / "c", tmp_path / "b"])
    kept.clear()
    assert len(lock_folders([tmp_path / "c", tmp_path / "b"])) == 2
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").write_text("no folder")
    with pytest.raises(ValueError, match="a cannot be locked .File exists"):
        lock_folders([tmp_path / "a"])
