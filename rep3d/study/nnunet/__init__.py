"""nnU-Net and `rep3d new` on the same cases, within the same time or in as many steps."""
