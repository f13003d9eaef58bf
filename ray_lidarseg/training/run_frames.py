"""Which frames a run learns from and is validated on: drawn once, kept in ``split.json``, compared at every start."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from ray_lidarseg import storage
from ray_lidarseg.datasets.catalog import Catalog
from ray_lidarseg.datasets.layers import KINDS, layer_digests
from ray_lidarseg.datasets.origin import digest_of_value
from ray_lidarseg.datasets.splits import LabelSplit, make_split, no_labels
from ray_lidarseg.errors import RunError, SplitError, StorageError
from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.recipe.text_files import read_json

FILE = "split.json"
_EXAMPLES = 3
_PARTS = ("scan", "labels", "layers")


@dataclass(frozen=True)
class RunFrames:
    """The frames of a run.

    Attributes:
        split: Labelled and unlabelled training frames.
        validation: Ids of the labelled frames of split ``val``.
        content: ``content_of`` each of all these frames when the run began; runs of earlier releases have none.
    """

    split: LabelSplit
    validation: tuple[str, ...] = ()
    content: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def drawn(catalog: Catalog, recipe: Recipe) -> "RunFrames":
        """Of a run that begins; see ``make_split`` and ``no_labels`` for what they raise."""
        validation = validation_of(catalog).frame_id
        split = make_split(catalog, recipe.split) if recipe.method.reads_labels else no_labels(catalog)
        content = content_of(catalog, recipe)
        chosen = {*split.labelled, *split.unlabelled, *validation}
        return RunFrames(split, validation, {name: digest for name, digest in content.items() if name in chosen})

    def to_json(self) -> bytes:
        """The text of ``split.json``."""
        return json.dumps({**asdict(self.split), "validation": self.validation, "content": self.content}).encode()

    @staticmethod
    def from_json(text: bytes, origin: str) -> "RunFrames":
        """The inverse of ``to_json``; a file of an earlier release says nothing of validation and content.

        Raises:
            RunError: Not such a file.
        """
        try:
            content = read_json(text, "it", RunError)
            digests = {str(name): str(digest) for name, digest in content.pop("content", {}).items()}
            validation = tuple(map(str, content.pop("validation", ())))
            ids = {name: tuple(map(str, content.pop(name))) for name in ("labelled", "unlabelled")}
            return RunFrames(LabelSplit(**{**content, **ids}), validation, digests)
        except (RunError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(
                f"{origin} is no list of labelled frames ({error}): give another --run, or put the file back"
            ) from error

    def is_all_of(self, content: Mapping[str, str]) -> bool:
        """Whether every frame of the run is there with the content it began with, and all of it is known."""
        known = all(digest and content.get(name) == digest for name, digest in self.content.items())
        return bool(self.content) and known

    def changed(self, content: Mapping[str, str]) -> dict[str, list[str]]:
        """Frames that are not what they were when the run began, by what changed (``scan``, ``labels``, ``layers``).

        Labels that the run does not see, of unlabelled frames, may change.

        Args:
            content: What the frames hold now; what is not known has not changed.
        """
        sees_labels = {*self.split.labelled, *self.validation}
        found: dict[str, list[str]] = {name: [] for name in _PARTS}
        for name, before in self.content.items():
            for part, one, other in zip(_PARTS, before.split("/"), content.get(name, "").split("/"), strict=False):
                if one and other and one != other and (part != "labels" or name in sees_labels):
                    found[part].append(name)
        return {what: names for what, names in found.items() if names}


def frames_of_run(run: str, catalog: Catalog, recipe: Recipe) -> RunFrames:
    """The frames the run in a folder began with; drawn where none began. Frames that came since are counted aloud.

    Args:
        run: Absolute URI of the run folder; a run in it is of this recipe.
        catalog: Of the prepared folder as it is now, with ``data.val_frames`` in split ``val``.
        recipe: The run.

    Raises:
        SplitError: See ``make_split``.
        RunError: Frames of the run are gone or have changed, or ``split.json`` is damaged.
    """
    stored = stored_frames(run)
    if stored is None:
        return RunFrames.drawn(catalog, recipe)
    began_with = {*stored.split.labelled, *stored.split.unlabelled, *stored.validation}
    if gone := sorted(began_with - set(catalog.frame_id)):
        raise RunError(
            f"{len(gone)} frames that {run} was trained on are not in {recipe.data.prepared} any more, for "
            f"example {', '.join(gone[:_EXAMPLES])}: prepare them again, or give another --run"
        )
    refuse_changed(stored, content_of(catalog, recipe), run)
    if not stored.content:  # of an earlier release, which validated on what was there
        return replace(stored, validation=validation_of(catalog).frame_id)
    _say_what_came(stored, catalog, recipe.data.prepared)
    _say_what_the_list_says(stored, catalog, recipe)
    return stored


def stored_frames(run: str) -> RunFrames | None:
    """What ``split.json`` says; None where no run began."""
    file = storage.join(run, FILE)
    if not (storage.exists(storage.join(run, "recipe.yaml")) and storage.exists(file)):
        return None
    return RunFrames.from_json(storage.read_bytes(file), file)


def content_of(catalog: Catalog, recipe: Recipe) -> dict[str, str]:
    """``SCAN/LABELS/LAYERS``: digests of what a run of this recipe reads of each frame; empty texts where unknown.

    Args:
        catalog: The frames.
        recipe: Its full names of layers (``training.completion``) say which it reads.

    Raises:
        DataError: A layer is not finished.
    """
    folder = storage.resolve(storage.absolute(recipe.data.prepared))
    named = f"{recipe.data.evidence}/{getattr(recipe.method, 'masks', '')}".split("/")
    layers = [layer_digests(*folder, name) for name in dict.fromkeys(named) if name.partition("-")[0] in KINDS]
    content = {}
    for name, digest in zip(catalog.frame_id, catalog.digest, strict=True):
        rows = [layer.get(name, "") for layer in layers]
        content[name] = f"{digest}/{digest_of_value(rows) if any(rows) else ''}" if digest else ""
    return content


def refuse_changed(stored: RunFrames, content: Mapping[str, str], run: str) -> None:
    """Ends a start that would go on with, or answer for, other data than the run began with.

    Raises:
        RunError: See above; frames are named.
    """
    if changed := stored.changed(content):
        raise RunError(
            f"{described(changed)} since {run} began: its steps so far saw the old content. Give another --run to "
            "train on the new one, or delete this run"
        )


def described(changed: Mapping[str, Iterable[str]]) -> str:
    """Counts and examples of what ``RunFrames.changed`` found."""
    parts = []
    for what, names in changed.items():
        known = sorted(names)
        parts.append(f"the {what} of {len(known)} frames changed (for example {', '.join(known[:_EXAMPLES])})")
    return " and ".join(parts)


def validation_of(catalog: Catalog) -> Catalog:
    """The labelled frames of split ``val``."""
    val = catalog.of_split("val")
    return val.select(np.array(val.frame_id, object)[val.is_labelled])


def _say_what_came(stored: RunFrames, catalog: Catalog, prepared: str) -> None:
    known = {*stored.split.labelled, *stored.split.unlabelled}
    new = len(set(catalog.of_split("train").frame_id) - known)
    new_val = len(set(validation_of(catalog).frame_id) - set(stored.validation))
    if new or new_val:
        print(
            f"{prepared} has {new} training and {new_val} validation frames more than when this run began: it keeps "
            f"the {len(stored.split.labelled)} labelled ones it drew (digest {stored.split.digest}) and all others it "
            "knew; another --run draws among all",
            flush=True,
        )


def _say_what_the_list_says(stored: RunFrames, catalog: Catalog, recipe: Recipe) -> None:
    """A list of frames that was changed since, or that is gone, changes nothing either."""
    if recipe.split.protocol != "list" or not recipe.method.reads_labels:
        return
    try:
        now = make_split(catalog, recipe.split).labelled
    except (SplitError, StorageError) as error:
        now, problem = (), f" ({error})"
    else:
        problem = ""
    if now != stored.split.labelled:
        print(
            f"split.file names other frames than when this run began{problem}: it keeps the "
            f"{len(stored.split.labelled)} it began with (digest {stored.split.digest})",
            flush=True,
        )
