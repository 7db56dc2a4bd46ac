"""Volumes and label maps as files; the one gate for headers and grids.

The reader, which configs reach as `rep3d.io.NiftiReader`, is imported with its first use: it needs MONAI, which takes
seconds, and volumes do not.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rep3d.io.reader import NiftiReader

__all__ = ["NiftiReader"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from rep3d.io import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'rep3d.io' has no attribute {name!r}")
