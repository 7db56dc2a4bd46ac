"""Volumes and label maps as files; the one gate for headers and grids."""

from rep3d.io.reader import NiftiReader

__all__ = ["NiftiReader"]
