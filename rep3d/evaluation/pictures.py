"""Reading and writing of the files that reports are made of."""

from pathlib import Path

from matplotlib.figure import Figure

from rep3d.files import whole_file


def existing_file(path: str | Path, expected: str) -> Path:
    """The path of a file that is there.

    Raises:
        FileNotFoundError: it is not; says what was expected.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected {expected}, found no file")
    return Path(path)


def save_picture(figure: Figure, path: str | Path) -> Path:
    """Write a PNG, and its folder where that is missing; its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")  # a Figure without pyplot draws with Agg
    return path
