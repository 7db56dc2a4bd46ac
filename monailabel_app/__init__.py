"""A MONAI Label app that serves the bundles of this project to 3D Slicer."""
