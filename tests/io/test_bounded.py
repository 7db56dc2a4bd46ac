"""Files of others end in bounded time."""

import time

import pytest

from rep3d.io.bounded import time_limit
from rep3d.io.geometry import VolumeError
from rep3d.io.nifti import read_volume

GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
EMPTY_BLOCK = b"\0\0\0\xff\xff"  # of deflate, and not the last one


def test_time_limit(tmp_path):
    """A compressed file of blocks that hold nothing."""
    path = tmp_path / "a.nii.gz"
    path.write_bytes(GZIP_HEADER + EMPTY_BLOCK * 10_000_000)
    start = time.monotonic()
    with time_limit(0), pytest.raises(VolumeError, match="takes too long"):
        read_volume(path)
    assert time.monotonic() - start < 5
    path.write_bytes(GZIP_HEADER + EMPTY_BLOCK)
    with pytest.raises(VolumeError, match="ended before"):
        read_volume(path)
