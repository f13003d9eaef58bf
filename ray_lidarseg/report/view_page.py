"""The verb `view`: scans that `predict` labelled, in 3-D beside their camera images: one page, no network needed."""

from collections.abc import Sequence

from ray_lidarseg import __version__, storage
from ray_lidarseg.errors import DataError
from ray_lidarseg.report.page import environment
from ray_lidarseg.report.scenes import predicted_scenes
from ray_lidarseg.report.viewer import cloud


def view(predictions: str, out: str, scans: Sequence[str] = (), num_scans: int = 4) -> None:
    """Writes the page: truth, prediction, errors and confidence of some scans, with class toggles.

    Args:
        predictions: Folder that `predict` wrote.
        out: HTML file; a path or a URI.
        scans: Frame ids; none: the scans whose labels are least certain.
        num_scans: How many of these.

    Raises:
        DataError: There are no predictions, or none of the scans can be shown.
        StorageError: ``out`` cannot be written.
    """
    if num_scans < 1:
        raise DataError(f"expected at least 1 scan to show, got --num {num_scans}")
    storage.check_file_writable(out)
    scenes, summary, problems = predicted_scenes(predictions, scans, num_scans)
    if not scenes:
        raise DataError("; ".join(problems) or f"{predictions} holds no labelled scan: give the predict command again")
    clouds = [{"title": scene.frame.scene or "scan", **cloud(scene, every_camera=True)} for scene in scenes]
    page = (
        environment()
        .get_template("view.html")
        .render(
            version=__version__,
            title=f"Predictions of {storage.name_of(storage.absolute(predictions))}",
            about=f"model of {summary['run']} after {summary['step']:,} steps",
            notes=problems,
            clouds=clouds,
        )
    )
    storage.write_bytes(out, page.encode())
    for problem in problems:
        print(f"not shown: {problem}")
    print(f"view: {storage.absolute(out)} ({len(scenes)} scans, {len(page) / 2**20:.1f} MiB)")
