"""Volumes on disk: one gate through which every header and every voxel comes in, and label maps on their way out."""
