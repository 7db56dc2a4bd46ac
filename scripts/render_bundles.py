"""Render bundles/ from configs/: merge ordered fragments, so that each fact stands once.

python scripts/render_bundles.py            # write the bundles
python scripts/render_bundles.py --check    # exit with 1 when a committed bundle differs from its render
"""

from __future__ import annotations

import json
from pathlib import Path

import fire

ROOT = Path(__file__).resolve().parents[1]


def main(check: bool = False, root: str | Path = ROOT) -> None:
    """Write the bundle of every file in configs/datasets, or only compare.

    Args:
        check: write nothing, and exit with 1 when something would change.
        root: the folder that holds configs, bundles and LICENSE.
    """
    root = Path(root)
    stale = []
    for dataset in sorted((root / "configs/datasets").glob("*.json")):
        for name, text in render(root, dataset.stem).items():
            path = root / "bundles" / dataset.stem / name
            if path.is_file() and path.read_text(encoding="utf-8") == text:
                continue
            stale.append(path)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'differs from its render' if check else 'written'}: {path.relative_to(root)}")
    if check and stale:
        raise SystemExit("run scripts/render_bundles.py and commit what it writes")


def render(root: Path, name: str) -> dict[str, str]:
    """The files of one bundle: path in the bundle -> text."""
    dataset = _read(root / "configs/datasets" / f"{name}.json")
    base = root / "configs/base"
    network = _read(root / "configs/networks" / f"{dataset['network']}.json")
    common = _read(base / "common.json")
    if "recipe" in dataset:
        dataset = merge(_read(root / "configs/recipes" / f"{dataset['recipe']}.json"), dataset)
    configs = {
        "train": merge(common, network, _read(base / "train.json"), dataset["common"], dataset["train"]),
        "evaluate": _read(base / "evaluate.json"),
        "inference": merge(common, network, _read(base / "inference.json"), dataset["common"]),
        "multi_gpu_train": merge(_read(base / "multi_gpu.json"), _read(base / "multi_gpu_train.json")),
        "multi_gpu_evaluate": _read(base / "multi_gpu.json"),
        "refine": _read(base / "refine.json"),
        "metadata": metadata(_read(base / "metadata.json"), dataset),
    }
    files = {f"configs/{key}.json": json.dumps(config, indent=4) + "\n" for key, config in configs.items()}
    files["configs/logging.conf"] = (base / "logging.conf").read_text(encoding="utf-8")
    files["docs/README.md"] = readme((base / "README.md").read_text(encoding="utf-8"), name, dataset)
    files["LICENSE"] = (root / "LICENSE").read_text(encoding="utf-8")
    return files


def merge(*fragments: dict) -> dict:
    """Later fragments win; dicts merge key by key, anything else is replaced."""
    merged: dict = {}
    for fragment in fragments:
        for key, value in fragment.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def metadata(base: dict, dataset: dict) -> dict:
    """MONAI Bundle metadata with the data format that the labels and the patch imply."""
    facts = dict(dataset["metadata"])
    labels = dict(enumerate(dataset["common"]["label_names"]))
    modality, value_range = facts.pop("modality"), facts.pop("value_range")
    tensor = {
        "type": "image",
        "format": "magnitude" if modality == "MR" else "hounsfield",
        "modality": modality,
        "num_channels": 1,
        "spatial_shape": dataset["common"]["patch_size"],
        "dtype": "float32",
        "value_range": value_range,
        "is_patch_data": True,
        "channel_def": {"0": "image"},
    }
    channels = {str(i): name for i, name in labels.items()}
    output = {"format": "segmentation", "num_channels": len(labels), "value_range": [], "channel_def": channels}
    label_text = ", ".join(f"{i} {name}" for i, name in labels.items())
    return base | facts | {
        "label_classes": f"one channel of label ids: {label_text}",
        "pred_classes": f"{len(labels)} channels of logits: {label_text}",
        "eval_metrics": {},
        "network_data_format": {"inputs": {"image": tensor}, "outputs": {"pred": merge(tensor, output)}},
    }  # fmt: skip


def readme(template: str, bundle: str, dataset: dict) -> str:
    labels = ", ".join(f"{i} {name}" for i, name in enumerate(dataset["common"]["label_names"]))
    return template.format(bundle=bundle, **dataset["metadata"], **dataset["readme"], labels=labels)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    fire.Fire(main)
