"""Which layers a command asks for: teachers and their settings, the layers they make, and whether they can be built."""

from dataclasses import dataclass, field, replace
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.datasets.evidence import TextEmbeddings
from ray_lidarseg.datasets.layers import Layer
from ray_lidarseg.errors import DataError, LidarSegError, RecipeError, ResourceError
from ray_lidarseg.foundation.build import build_features, build_masks, identity
from ray_lidarseg.foundation.prompts import Vocabulary, vocabulary_of
from ray_lidarseg.foundation.settings import (
    MINIATURE,
    FeatureSettings,
    FileMasks,
    MaskSettings,
    PairSettings,
    SlicMasks,
    settings_of,
    split_overrides,
)
from ray_lidarseg.foundation.teachers import TextTeacher
from ray_lidarseg.runtime.cluster import worker_runtime_env
from ray_lidarseg.runtime.pool import Actors, own_device

_FOLDER_MARK = "local-dir:"


@dataclass(frozen=True)
class Teachers:
    """What images are shown to; without masks `prepare` only decodes.

    Attributes:
        masks: Segments; None: no layers at all.
        features: Pooled over the segments; None: masks and pairs only.
        pairs: How points find their pixels.
    """

    masks: MaskSettings | None = None
    features: FeatureSettings | None = None
    pairs: PairSettings = field(default_factory=PairSettings)

    @staticmethod
    def of(masks: str = "", features: str = "", overrides: list[str] | tuple[str, ...] = ()) -> "Teachers":
        """From the command line: names of teachers, and ``masks.num_segments=100`` and the like.

        Raises:
            RecipeError: An unknown name or key, a value out of range, or features without masks.
        """
        given = split_overrides(overrides)
        chosen = {"masks": masks, "features": features, "pairs": "pairs"}
        if features and not masks:
            raise RecipeError(f"--features {features} is pooled over segments: say which, for example --masks slic")
        for kind, values in given.items():
            if values and not (chosen[kind] and masks):
                flag = "--masks" if kind == "pairs" else f"--{kind}"
                raise RecipeError(f"--set {kind}.{next(iter(values))} has no effect without {flag}")
        return Teachers(
            masks=_absolute(settings_of("masks", masks, given["masks"])) if masks else None,
            features=_absolute(settings_of("features", features, given["features"])) if features else None,
            pairs=settings_of("pairs", "pairs", given["pairs"]),
        )

    def layers(self) -> list[Layer]:
        """The layers, in the order in which they are computed; reads and hashes the checkpoints.

        Raises:
            DataError: A checkpoint is missing.
        """
        if self.masks is None:
            return []
        masks = Layer("masks", identity(self.masks))
        layers = [masks, Layer("pairs", identity(self.pairs), (masks.name,))]
        if self.features is not None:
            layers.append(Layer("features", identity(self.features), (masks.name,)))
        return layers


def uses_gpu(settings: MaskSettings | FeatureSettings | PairSettings) -> bool:
    """Whether the teacher gains anything from a GPU."""
    return not isinstance(settings, SlicMasks | FileMasks | PairSettings)


def _absolute(settings: Any) -> Any:
    """The same settings with paths that workers in another folder find, too."""
    changes = {}
    for name in ("folder", "checkpoint"):
        path = getattr(settings, name, MINIATURE)
        if path != MINIATURE:
            mark = _FOLDER_MARK if path.startswith(_FOLDER_MARK) else ""
            changes[name] = mark + storage.absolute(path.removeprefix(mark))
    return settings.model_copy(update=changes)


@dataclass(frozen=True)
class Probe:
    """What is known of a teacher once it was built.

    Attributes:
        feature_dim: F; 0 for mask teachers.
        text: The classes' words as it sees them; None where it has no text tower.
    """

    feature_dim: int = 0
    text: TextEmbeddings | None = None


def probe(settings: MaskSettings | FeatureSettings, vocabulary: Vocabulary, threads: int) -> Probe:
    """Builds the teacher, where the actors will be built, and asks it what does not depend on images."""
    device = str(own_device(threads))
    if isinstance(settings, MaskSettings):
        build_masks(settings, device)
        return Probe()
    teacher = build_features(settings, device)
    if not isinstance(teacher, TextTeacher):
        return Probe(teacher.feature_dim)
    templates = getattr(settings, "templates", None)
    words = TextEmbeddings(vocabulary.embed(teacher, templates), vocabulary.class_idx, vocabulary.words)
    if reject := getattr(settings, "reject", None):
        words = replace(words, reject=vocabulary_of([[word] for word in reject]).embed(teacher, templates))
    return Probe(teacher.feature_dim, words)


def probed(settings: MaskSettings | FeatureSettings, vocabulary: Vocabulary, actors: Actors) -> Probe:
    """``probe`` in a process with an actor's CPUs and GPUs; Ray must be connected.

    A bad checkpoint is one error here, before an actor pool meets it over and over.

    Raises:
        LidarSegError: What the teacher says about its checkpoint.
        ResourceError: The process died.
        DataError: The teacher failed in any other way.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    task = ray.remote(probe).options(num_cpus=actors.num_cpus, num_gpus=actors.gpus, runtime_env=worker_runtime_env())
    try:
        return ray.get(task.remote(settings, vocabulary, actors.threads))
    except RayTaskError as error:
        if isinstance(error.cause, LidarSegError):
            raise error.cause from None
        raise DataError(f"teacher {settings.name} cannot be built: {error.cause!r}") from error
    except RayError as error:
        raise ResourceError(
            f"the process that loads teacher {settings.name} died (out of memory?): give each actor a larger node, or "
            f"use a smaller checkpoint ({error})"
        ) from error
