"""What pyproject.toml has no words for: configs/ and bundles/ become folders of the installed package rep3d."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

CONFIGS = ["configs", *(f"configs.{name}" for name in find_namespace_packages("configs"))]
BUNDLES = [f"bundles.{path.parents[1].name}" for path in Path("bundles").glob("*/configs/metadata.json")]
MODELS = [f"{name}.models" for name in BUNDLES if Path(*name.split("."), "models").is_dir()]
# Of models what ships; a checkout may hold weights of somebody's own.
SHIPPED = {f"bundles.{path.stem}.models": ["NOTICE", "model.pt"] for path in Path("configs/weights").glob("*.json")}
FILES = {
    **{name: ["*"] for name in CONFIGS},
    **{name: ["LICENSE"] for name in ["bundles", *BUNDLES]},
    **{f"{name}.{part}": ["*"] for name in BUNDLES for part in ("configs", "docs")},
    **{name: SHIPPED.get(name, ["NOTICE"]) for name in MODELS},
}

setup(
    packages=[*find_packages(include=["rep3d*", "monailabel_app*"]), *(f"rep3d.{name}" for name in FILES)],
    package_dir={"rep3d.configs": "configs", "rep3d.bundles": "bundles"},
    package_data={"rep3d": ["py.typed"], **{f"rep3d.{name}": patterns for name, patterns in FILES.items()}},
)
