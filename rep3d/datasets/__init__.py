"""Data sets before a training: preparation, fingerprint, and synthetic ones."""
