"""Render bundles/ from configs/: merge ordered fragments, so that each fact stands once.

python scripts/render_bundles.py            # write the bundles
python scripts/render_bundles.py --check    # exit with 1 when a committed bundle differs from its render
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from pathlib import Path

import fire
from fire.decorators import SetParseFn

from rep3d.console.options import nearest, option_ids, plain_values, references, undefined_ids, unused_ids

METADATA_KEYS = {"name", "task", "modality", "data_source", "value_range"}
ROOT = Path(__file__).resolve().parents[1]


@SetParseFn(str, "root")  # a folder may be called 2024_01_05
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
    """The files of one bundle: path in the bundle -> text.

    Raises:
        SystemExit: a fragment is no JSON, or lacks a key, or has one that nothing uses. Names file and key.
    """
    path, base = root / "configs/datasets" / f"{name}.json", root / "configs/base"
    own = _read(path)
    check_keys(path, "", own, {"network", "common", "train", "data", "metadata", "readme"}, {"recipe"})
    network = _read(_fragment(path, "network", own["network"], root / "configs/networks"))
    common = _read(base / "common.json")
    dataset = own
    if "recipe" in own:
        recipe = _fragment(path, "recipe", own["recipe"], root / "configs/recipes")
        check_keys(recipe, "", _read(recipe), set(), {"common", "train", "data", "metadata", "readme"})
        dataset = merge(_read(recipe), own)
    template = (base / "README.md").read_text(encoding="utf-8")
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field}
    check_keys(path, "metadata.", dataset["metadata"], METADATA_KEYS)
    check_keys(path, "readme.", dataset["readme"], fields - METADATA_KEYS - {"bundle", "labels", "folds"})
    check_keys(path, "data.", dataset["data"], {"layout", "split", "folds"}, {"modality", "task", "task_labels"})
    check_keys(path, "data.split.", dataset["data"]["split"], {"training", "validation", "test"})
    bases = {kind: merge(common, network, _read(base / f"{kind}.json")) for kind in ("train", "inference")}
    train = merge(bases["train"], dataset["common"], dataset["train"])
    check_ids(path, bases["train"], train)
    configs = {
        "train": train,
        "evaluate": _read(base / "evaluate.json"),
        "inference": merge(bases["inference"], dataset["common"]),
        "multi_gpu_train": merge(_read(base / "multi_gpu.json"), _read(base / "multi_gpu_train.json")),
        "multi_gpu_evaluate": _read(base / "multi_gpu.json"),
        "refine": _read(base / "refine.json"),
        "metadata": metadata(_read(base / "metadata.json"), dataset),
    }
    for kind in bases:
        ids, values = list(option_ids(configs[kind])), plain_values(configs[kind])
        configs[kind] |= {"known_ids": ids, "known_values": values}
    files = {f"configs/{key}.json": json.dumps(config, indent=4) + "\n" for key, config in configs.items()}
    files["configs/logging.conf"] = (base / "logging.conf").read_text(encoding="utf-8")
    files["docs/README.md"] = readme(template, name, dataset)
    files["LICENSE"] = (root / "LICENSE").read_text(encoding="utf-8")
    return files


def check_keys(path: Path, prefix: str, content: dict, required: set[str], optional: Iterable[str] = ()) -> None:
    """Refuse a fragment that lacks a required key, or has another than the required and the optional ones."""
    known = required.union(optional)
    for key in content:
        if key not in known:
            raise SystemExit(f"{path}: unknown key {prefix + key!r}{nearest(key, known)}")
    for key in sorted(required - content.keys()):
        raise SystemExit(f"{path}: lacks the key {prefix + key!r}")


def check_ids(path: Path, base: dict, config: dict) -> None:
    """Refuse a data set's config that defines what nothing uses, or lacks what something refers to."""
    missing = [name for name in undefined_ids(config) if name not in ("known_ids", "known_values")]
    if missing:
        raise SystemExit(f"{path}: lacks the key {_dotted(missing[0])!r}, which the bundle's configuration refers to")
    known = set(option_ids(base)) | references(config)
    for name in unused_ids(config):
        if name not in known:
            raise SystemExit(
                f"{path}: nothing uses the key {_dotted(name)!r}{nearest(_dotted(name), map(_dotted, known))}"
            )


def _dotted(name: str) -> str:
    return name.replace("::", ".")


def _fragment(path: Path, key: str, name: str, folder: Path) -> Path:
    known = [fragment.stem for fragment in sorted(folder.glob("*.json"))]
    if name not in known:
        raise SystemExit(f"{path}: {key} is {name!r}, expected one of {', '.join(known)}{nearest(str(name), known)}")
    return folder / f"{name}.json"


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
    last = dataset["data"]["folds"] - 1
    folds = f"\nTrain another fold with `--fold 1` (to {last}): its weights go to `models/fold1`." if last else ""
    return template.format(bundle=bundle, **dataset["metadata"], **dataset["readme"], labels=labels, folds=folds)


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path}: no valid JSON ({error})") from None


if __name__ == "__main__":
    fire.Fire(main)
