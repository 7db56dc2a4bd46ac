"""Pack a trained bundle into a zip, for `monai.bundle.load` and MONAI Label where rep3d is installed.

    python scripts/pack_bundle.py bundles/msd_hippocampus --archive msd_hippocampus.zip

Needs the extra `export` for ONNX.
"""

from __future__ import annotations

from fire.decorators import SetParseFn

from rep3d.console.commands import run_command


@SetParseFn(str, "bundle", "archive", "weights")  # a folder may be called 2024_01_05
def main(bundle: str, archive: str, weights: str | None = None) -> None:
    """Write the archive.

    Args:
        bundle: the bundle's folder.
        archive: the zip file.
        weights: a checkpoint; by default what was trained in the bundle's folder, or else what it ships with.
    """
    from rep3d.export import pack_bundle  # here, not above: it takes seconds, and a help does not need it
    from rep3d.shipped import find_weights

    print(pack_bundle(bundle, weights or find_weights(bundle), archive))


if __name__ == "__main__":
    run_command(main)
