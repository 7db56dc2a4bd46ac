"""Render bundles/ from configs/: merge ordered fragments, so that each fact stands once.

python scripts/render_bundles.py            # write the bundles
python scripts/render_bundles.py --check    # exit with 1 when a committed bundle differs from its render
"""

from __future__ import annotations

from pathlib import Path

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command, switch
from rep3d.datasets.rendering import render

ROOT = Path(__file__).resolve().parents[1]


@SetParseFn(str)  # a folder may be called 2024_01_05
def main(check: str | bool = False, root: str | Path = ROOT) -> None:
    """Write the bundle of every file in configs/datasets, or only compare.

    Args:
        check: write nothing, and exit with 1 when something would change.
        root: the folder that holds configs, bundles and LICENSE.
    """
    root, compares = Path(root), switch("check", check)
    stale = []
    for dataset in sorted((root / "configs/datasets").glob("*.json")):
        for name, text in _render(root, dataset.stem).items():
            path = root / "bundles" / dataset.stem / name
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                continue
            stale.append(path)
            if not compares:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'differs from its render' if compares else 'written'}: {path.relative_to(root)}")
    if compares and stale:
        raise SystemExit("run scripts/render_bundles.py and commit what it writes")


def _render(root: Path, name: str) -> dict[str, str]:
    try:
        return render(root, name)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    run_command(main)
