"""What the library says of a file, in the words of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from monailabel_app.errors import RequestError
from rep3d.io.geometry import TooLargeError, VolumeError


@contextmanager
def refusals() -> Iterator[None]:
    """Tell the caller what is wrong with a file, without its path.

    Raises:
        RequestError: 413, it is too large; 400, anything else that `rep3d.io` refuses.
    """
    try:
        yield
    except VolumeError as error:
        raise RequestError(413 if isinstance(error, TooLargeError) else 400, error.reason) from error
