"""Studies: many runs of bundles, and what is made of them."""
