"""`rep3d pack`: a trained bundle as one file."""

from __future__ import annotations

from fire.decorators import SetParseFn

from rep3d.commands.bundle_folders import FOLDER, find_bundle


@SetParseFn(str)  # a folder may be called 2024_01_05
def pack(bundle: str, archive: str, weights: str | None = None, bundle_dir: str = FOLDER) -> None:
    """Pack a trained bundle into a zip, for `monai.bundle.load` and MONAI Label where rep3d is installed.

    Needs the extra `export` for ONNX.

    Args:
        bundle: its folder, or its name.
        archive: the zip file.
        weights: a checkpoint; by default what was trained in the bundle's folder, or else what it ships with.
        bundle_dir: the folder that holds your bundles.
    """
    folder = find_bundle(bundle, bundle_dir)
    from rep3d.export import pack_bundle  # here, not above: it takes seconds, and a help does not need it
    from rep3d.shipped import find_weights

    print(pack_bundle(folder, weights or find_weights(folder), archive))
