"""A bundle's files from the fragments in configs/, each of which holds its facts once.

Fragments merge dictionary by dictionary, the later ones win; there is no templating. A key that nothing uses is
refused, and so is one that is missing.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rep3d.console.configurations import (
    EVALUATED,
    SEPARATOR,
    option_ids,
    plain_values,
    references,
    undefined_ids,
    unused_ids,
)
from rep3d.console.nearest import nearest
from rep3d.console.typed import TYPED_SEPARATOR
from rep3d.data.cases import ONE_CHANNEL
from rep3d.data.notes import channel_windows
from rep3d.data.regions import IGNORE, check_judging, check_label_names
from rep3d.datasets.bundle_readme import COMPUTED, OF_WEIGHTS, OPTIONAL, computed_fields
from rep3d.installed import licence_text

SECTIONS = {"common", "train", "data", "metadata", "readme"}  # of a data set, and of its recipe
VARIANTS = ("interactive",)  # of the bundles: folders whose fragments lie over those of base, or stand in their place
VARIANT_SECTIONS = SECTIONS - {"data"}  # its data are of any kind
METADATA = {"name", "task", "modality", "data_source", "value_range"}
OF_LAYOUTS = {"modality", "task", "task_labels", "source", "channel"}  # keys of "data" that some layouts have
WEIGHTS = {  # that ship: what the file is, how it was made, how good it is, and what may be done with it
    *("sha256", "bytes", "float16_parameters"),
    *("command", "data", "seed", "commit", "processor", "pytorch", "duration"),
    *("dice", "cases"),
    *("authors", "source", "licence", "changes"),
}

Config = dict[str, Any]


def render(root: Path, name: str) -> dict[str, str]:
    """The files of one of our bundles: path in the bundle -> text.

    Args:
        root: the folder that holds configs.
        name: of a file in configs/datasets.

    Raises:
        ValueError: there is no such file, or as `render_file`.
    """
    return render_file(root, _fragment(root / "configs/datasets", name, "dataset"))


def render_file(root: Path, path: Path) -> dict[str, str]:
    """The files of a bundle from a data set's file, wherever that lies: path in the bundle -> text.

    Args:
        root: the folder that holds configs.
        path: the file, of the form of those in configs/datasets, called as the bundle.

    Raises:
        ValueError: a fragment is no JSON, or lacks a key, or has one that nothing uses. Names file and key.
    """
    base, name = root / "configs/base", path.stem
    dataset = _read_dataset_file(root, path)
    own = root / "configs" / dataset.get("variant", "base")
    template = (own / "README.md").read_text(encoding="utf-8")
    weights = read_weights_facts(root, name)
    computed = COMPUTED if weights is None else COMPUTED | OF_WEIGHTS
    _check_dataset(path, dataset, template, computed)
    multi_gpu = read_fragment(base / "multi_gpu.json")
    configs = {
        **_main_configs(root / "configs", path, dataset),
        "evaluate": read_fragment(own / "evaluate.json"),
        "multi_gpu_train": merge(multi_gpu, read_fragment(base / "multi_gpu_train.json")),
        "metadata": metadata(read_fragment(base / "metadata.json"), dataset, weights),
    }
    if "variant" in dataset:
        configs["metadata"] = merge(configs["metadata"], read_fragment(own / "metadata.json"))
    else:
        configs["multi_gpu_evaluate"] = multi_gpu
        configs |= {name: read_fragment(base / f"{name}.json") for name in ("refine", "choose_refinement")}
    sentences = computed_fields(name, configs["train"], dataset, weights)
    fields = {"bundle": name, **dataset["metadata"], **dataset["readme"], **sentences}
    files = {f"configs/{key}.json": json.dumps(config, indent=4) + "\n" for key, config in configs.items()}
    files["configs/logging.conf"] = (base / "logging.conf").read_text(encoding="utf-8")
    files["docs/README.md"] = template.format(**fields)
    files["LICENSE"] = licence_text(root)
    if weights is not None:
        files["models/NOTICE"] = (base / "NOTICE").read_text(encoding="utf-8").format(**weights)
    return files


def read_dataset(root: Path, name: str) -> Config:
    """A file of configs/datasets, laid over its recipes.

    Raises:
        ValueError: there is no such file, it is no JSON, or it has sections that no data set has.
    """
    return _read_dataset_file(root, _fragment(root / "configs/datasets", name, "dataset"))


def _read_dataset_file(root: Path, path: Path) -> Config:
    own = read_fragment(path)
    if "variant" in own:
        if own["variant"] not in VARIANTS:
            raise ValueError(f"{path}: variant is {own['variant']!r}, expected one of {', '.join(VARIANTS)}")
        _check_keys(path, "", own, VARIANT_SECTIONS | {"network", "variant"})
        return own
    _check_keys(path, "", own, set(), SECTIONS | {"network", "recipe"})
    names = own.get("recipe", [])
    recipes = [_recipe(root, path, name) for name in ([names] if isinstance(names, str) else names)]
    _check_keys(path, "", own, (SECTIONS | {"network"}).difference(*recipes), SECTIONS | {"recipe"})
    return merge(*recipes, own)


def _recipe(root: Path, path: Path, name: str) -> Config:
    recipe = _fragment(root / "configs/recipes", name, f"{path}: recipe")
    content = read_fragment(recipe)
    _check_keys(recipe, "", content, set(), SECTIONS)
    return content


def read_weights_facts(root: Path, name: str) -> Config | None:
    """What a file of configs/weights tells of the weights that ship with a bundle; None where none do.

    Raises:
        ValueError: it is no JSON, or lacks one of WEIGHTS, or has another.
    """
    path = root / "configs/weights" / f"{name}.json"
    if not path.is_file():
        return None
    facts = read_fragment(path)
    _check_keys(path, "", facts, WEIGHTS)
    return facts


def merge(*fragments: Config) -> Config:
    """Later fragments win; dicts merge key by key, anything else is replaced."""
    merged: Config = {}
    for fragment in fragments:
        for key, value in fragment.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def metadata(base: Config, dataset: Config, weights: Config | None) -> Config:
    """MONAI Bundle metadata with the data format that the labels and the patch imply, and what ships.

    A variant has no labels.
    """
    facts = dict(dataset["metadata"])
    labels = dict(enumerate(dataset["common"].get("label_names", [])))
    channel_names = dataset["common"].get("channel_names", ONE_CHANNEL)
    modality, value_range = facts.pop("modality"), facts.pop("value_range")
    tensor = {
        "type": "image",
        "format": "hounsfield" if modality == "CT" else "magnitude",
        "modality": modality,
        "num_channels": len(channel_names),
        "spatial_shape": dataset["common"]["patch_size"],
        "dtype": "float32",
        "value_range": value_range,
        "is_patch_data": True,
        "channel_def": {str(i): name for i, name in enumerate(channel_names)},
    }
    if len(channel_names) > 1:
        facts["image_classes"] = f"{len(channel_names)} channels: {', '.join(channel_names)}"
    regions, ignored = (dataset["common"].get(name) for name in ("regions", "ignored_label"))
    outputs = list(labels.values() if regions is None else regions)
    channels = {str(i): name for i, name in enumerate(outputs)}
    output = {"format": "segmentation", "num_channels": len(outputs), "value_range": [], "channel_def": channels}
    if ignored is not None:
        labels[ignored] = IGNORE
    if regions is not None or ignored is not None:  # then the network's channels are not the ids of label maps
        facts["label_map"] = {name: i for i, name in labels.items() if i > 0}
    label_text, output_text = (
        ", ".join(f"{i} {name}" for i, name in named) for named in (labels.items(), enumerate(outputs))
    )
    return base | facts | {
        "label_classes": f"one channel of label ids: {label_text}",
        "pred_classes": f"{len(outputs)} channels of logits: {output_text}",
        "eval_metrics": {},
        "network_data_format": {"inputs": {"image": tensor}, "outputs": {"pred": merge(tensor, output)}},
        **({} if weights is None else {"weights": weights}),
    }  # fmt: skip


def read_fragment(path: Path) -> Config:
    """A JSON file.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from None


def check_plain_names(where: object, names: Iterable[object]) -> None:
    """Refuse names of labels, regions or channels that mean something else in a config, which runs `$...` as code.

    Args:
        where: the file or argument that has them, for the message.
        names: as they would be written into a config.

    Raises:
        ValueError: names the first.
    """
    for name in map(str, names):
        if name.lstrip().startswith(EVALUATED) or TYPED_SEPARATOR in name or SEPARATOR in name:
            expected = f"without {TYPED_SEPARATOR} and {SEPARATOR}, and not to begin with {', '.join(EVALUATED)}"
            raise ValueError(f"{where}: the name {name!r} means something else in a config, expected it {expected}")


def _check_dataset(path: Path, dataset: Config, template: str, computed: set[str]) -> None:
    """Refuse what the README's template and the preparation of the data do not know, and what they lack."""
    fields = {field for _, field, _, _ in string.Formatter().parse(template) if field}
    _check_keys(path, "metadata.", dataset["metadata"], METADATA)
    _check_keys(path, "readme.", dataset["readme"], fields - METADATA - computed - {"bundle"}, OPTIONAL)
    if "variant" in dataset:
        return
    common = dataset["common"]
    for key in ("label_names", "channel_names", "regions"):
        check_plain_names(path, common.get(key) or ())
    try:
        channel_windows(common.get("intensity_window"), len(common.get("channel_names", ONE_CHANNEL)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    _check_keys(path, "data.", dataset["data"], {"layout", "split", "folds"}, OF_LAYOUTS)
    _check_keys(path, "data.split.", dataset["data"]["split"], {"training", "validation", "test"})


def _main_configs(folder: Path, path: Path, dataset: Config) -> dict[str, Config]:
    """The configs that train and infer, each with its own ids and plain values as "known_ids" and "known_values"."""
    variant = dataset.get("variant")
    own = folder / variant / "common.json" if variant else folder / "base/automatic.json"
    common = merge(read_fragment(folder / "base/common.json"), read_fragment(own))
    family = _fragment(folder / "networks", dataset["network"], f"{path}: network")
    network = read_fragment(family)
    _check_keys(family, "", network, {"network_def"})
    train = merge(common, network, read_fragment(folder / "base/train.json"))
    if variant:
        train = merge(train, read_fragment(folder / variant / "train.json"))
    if judging := _judging(folder, path, dataset["common"]):
        common, train = merge(common, judging["common"]), merge(train, judging["common"], judging["train"])
    inference = merge(common, network, read_fragment(folder / (variant or "base") / "inference.json"))
    configs = {
        "train": merge(train, dataset["common"], dataset["train"]),
        "inference": merge(inference, dataset["common"]),
    }
    if not variant:
        for config in configs.values():
            config["modality"] = dataset["metadata"]["modality"]
    _check_ids(path, train, configs["train"])
    for config in configs.values():
        config |= {"known_ids": list(option_ids(config)), "known_values": plain_values(config)}
    return configs


def _judging(folder: Path, path: Path, common: Config) -> Config:
    """What a bundle of regions, or with a label that is ignored, has beside others; nothing for these.

    Raises:
        ValueError: names the file: a label's name stands there twice, or the options do not fit its labels.
    """
    told = [common.get(name) for name in ("regions", "regions_class_order", "ignored_label")]
    try:
        check_label_names(common.get("label_names", []))
        if told == [None] * 3:
            return {}
        check_judging(common["label_names"], *told)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return read_fragment(folder / "base/judging.json")


def _check_keys(path: Path, prefix: str, content: Config, required: set[str], optional: Iterable[str] = ()) -> None:
    """Refuse a fragment that lacks a required key, or has another than the required and the optional ones."""
    known = required.union(optional)
    for key in content:
        if key not in known:
            raise ValueError(f"{path}: unknown key {prefix + key!r}{nearest(key, known)}")
    for key in sorted(required - content.keys()):
        raise ValueError(f"{path}: lacks the key {prefix + key!r}")


def _check_ids(path: Path, base: Config, config: Config) -> None:
    """Refuse a data set's config that defines what nothing uses, or lacks what something refers to."""
    missing = [name for name in undefined_ids(config) if name not in ("known_ids", "known_values")]
    if missing:
        raise ValueError(f"{path}: lacks the key {_dotted(missing[0])!r}, which the bundle's configuration refers to")
    known = set(option_ids(base)) | references(config)
    for name in unused_ids(config):
        if name not in known:
            raise ValueError(
                f"{path}: nothing uses the key {_dotted(name)!r}{nearest(_dotted(name), map(_dotted, known))}"
            )


def _dotted(name: str) -> str:
    return name.replace("::", ".")


def _fragment(folder: Path, name: str, told: str) -> Path:
    """The file of that name; `told` says in the error what the name is."""
    known = [fragment.stem for fragment in sorted(folder.glob("*.json"))]
    if name not in known:
        raise ValueError(f"{told} is {name!r}, expected one of {', '.join(known)}{nearest(str(name), known)}")
    return folder / f"{name}.json"
