"""Checks tensor shapes in every Python process the tests start, Ray's workers too: it is on their PYTHONPATH."""

from jaxtyping import install_import_hook

GROUND_FLOOR = ("batches", "sample", "geometry", "foundation", "losses", "metrics", "models", "methods", "sparse")

install_import_hook([f"ray_lidarseg.{name}" for name in GROUND_FLOOR], "beartype.beartype")
