"""What a run of method nerf sees in a few images, rendered where its model is, by one actor; the report shows it."""

from functools import cached_property
from typing import Any

import pyarrow as pa

from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.errors import LidarSegError, reason
from ray_lidarseg.evaluate.scored_frames import FOLDER, results
from ray_lidarseg.recipe.schema import NeRF, Recipe
from ray_lidarseg.runtime import pool
from ray_lidarseg.training.rendered_views import ViewRenderer, pack_views, unpack_views
from ray_lidarseg.training.run_folder import RunFolder, load_method

NUM_VIEWS = 2
"""Images a person looks at, evenly spaced over the frames scored. Ours."""


def render_views(folder: RunFolder, recipe: Recipe, prepared: str, catalog: Catalog, split: str, step: int) -> None:
    """Writes ``evaluation/rendered-<split>.npz`` of a run of method nerf; what cannot be rendered is said, not raised.

    Args:
        folder: The run.
        recipe: Its recipe; of another method nothing happens.
        prepared: URI of the shards.
        catalog: Frames to choose from.
        split: Theirs.
        step: Of the checkpoint.
    """
    if not isinstance(recipe.method, NeRF):
        return
    chosen = range(0, len(catalog), max(1, len(catalog) // NUM_VIEWS))[:NUM_VIEWS]
    arguments = {"run": folder.uri, "step": step, "prepared": prepared, "split_catalog": catalog}
    try:
        parts = list(results(chosen, _Renderer, arguments, 1, "render"))
        content = [unpack_views(part["views"], "a worker's result")[0] for part in parts]
        views = sorted((view for part in content for view in part), key=lambda view: view.frame_id)
        folder.write(f"{FOLDER}/rendered-{split}.npz", pack_views(views, step))
    except LidarSegError as error:
        print(f"no rendered views for the report: {error}", flush=True)


class _Renderer:
    """One actor: the whole method, its head included, and the shards."""

    def __init__(self, run: str, step: int, prepared: str, split_catalog: Catalog):
        self.run, self.step, self.prepared, self.split_catalog = run, step, prepared, split_catalog

    @cached_property
    def renderer(self) -> ViewRenderer:
        """Made in the first call: what it finds wrong with layers is a result, not the end of this process."""
        device = pool.own_device()
        method, recipe, _ = load_method(self.run, self.step, device)
        return ViewRenderer(method, recipe, self.prepared, self.split_catalog, device)

    def __call__(self, rows: pa.Table) -> pa.Table:
        positions = rows.column("position").to_pylist()
        result: dict[str, Any] = {"positions": positions, "error": "", "views": b""}
        try:
            found = [self.renderer(position) for position in positions]
            result["views"] = pack_views([view for view in found if view is not None], self.step)
        except Exception as error:  # the driver says it
            result["error"] = reason(error)
        return pa.Table.from_pylist([result])
