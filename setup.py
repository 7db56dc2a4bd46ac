"""What pyproject.toml has no words for: configs/ and bundles/ become folders of the installed package rep3d."""

from setuptools import find_packages, setup

MAPPED = {"rep3d.configs": "configs", "rep3d.bundles": "bundles"}

setup(
    packages=[*find_packages(include=["rep3d*", "monailabel_app*"]), *MAPPED],
    package_dir=MAPPED,
    package_data={
        "rep3d": ["py.typed"],
        "rep3d.configs": ["**/*"],
        # Of models what ships, see .gitignore; a checkout may hold weights of somebody's own.
        "rep3d.bundles": [
            *("*/LICENSE", "*/configs/*", "*/docs/*"),
            *("*/models/NOTICE", "msd_hippocampus/models/model.pt"),
        ],
    },
)
