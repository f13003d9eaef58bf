"""A study: the question of a sweep as a few lines of YAML, recipe keys and the values to try; no code to write.

::

    question: Which pseudo-labels are worth learning from?
    recipe: {method: lasermix, train.steps: 5000}   # of every trial, on top of the recipe the sweep is given
    space:
      split.ratio: [1%, 10%]                        # a list: these values
      method.confidence: {uniform: [0.5, 0.99]}     # or loguniform, or integers, whose both ends may be drawn
      beams:                                        # a name of your own: keys that change together, under a label
        16: {data.prepared: "{prepared}-16-beams", data.sensor.num_beams: 16}
        32: {data.sensor.num_beams: 32}             # {prepared} is data.prepared of the recipe the sweep is given
    search: random                                  # grid: every combination; random or optuna: as many as trials says
    trials: 20
    seeds: [0, 1, 2]                                # each combination is trained with each of them
    metric: point_miou_ratio                        # of the model to deploy; or cell_miou_ratio
    scheduler: {name: asha, grace_ratio: 0.1}       # stops weak trials early; or none

A data file and no Python module: it is read by the one door for files of strangers, and nothing in it can run.
``method`` as a key is what ``--method`` is to `train`: the settings that both methods have stay.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from ray_lidarseg.errors import RecipeError
from ray_lidarseg.recipe.bad_input import assignments, dotted_keys, explain, nearest, shown
from ray_lidarseg.recipe.frozen_section import Count, Section
from ray_lidarseg.recipe.schema import FREE_KEYS, Recipe
from ray_lidarseg.recipe.text_files import carries_credentials, read_yaml

METRICS = ("point_miou_ratio", "cell_miou_ratio")
MAX_TRIALS = 10_000
"""More combinations than anybody means (ours): a list too many, or a seed list typed as a range."""

_KINDS = ("uniform", "loguniform", "integers")
_SEED_KEYS = ("seed", "split.seed")
_PAUSES = (
    "pauses trials and goes on from checkpoints that Tune holds, but the checkpoints of these trials are their own"
)
_REFUSED = {
    "pbt": "copies the weights of one trial into another through checkpoints that Tune holds, and here it holds none",
    "pb2": "copies the weights of one trial into another through checkpoints that Tune holds, and here it holds none",
    "hyperband": _PAUSES,
    "bohb": _PAUSES,
}
"""Schedulers that run without an error inside Tune, and without an effect (specs/ray.md: measured), so: not offered."""


@dataclass(frozen=True)
class Choices:
    """A dimension of listed values.

    Attributes:
        labels: What tables and messages call them.
        settings: For each, the recipe keys it sets.
    """

    labels: tuple[Any, ...]
    settings: tuple[Mapping[str, Any], ...]

    def at(self, share: float) -> Any:
        """The label at a share in [0, 1) of the list."""
        return self.labels[int(share * len(self.labels))]

    def holds(self, value: Any) -> bool:
        """Whether it is one of the labels."""
        return value in self.labels

    def changes(self, value: Any) -> Mapping[str, Any]:
        """The recipe keys that a label stands for."""
        return self.settings[self.labels.index(value)]


@dataclass(frozen=True)
class Interval:
    """A dimension of numbers between two ends, both of them included.

    Attributes:
        key: The recipe key.
        kind: ``uniform``, ``loguniform`` or ``integers``.
        low: Smallest.
        high: Largest.
    """

    key: str
    kind: str
    low: float
    high: float

    def at(self, share: float) -> float:
        """The number below which a share in [0, 1) of all draws lies."""
        if self.kind == "integers":
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        if self.kind == "loguniform":
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return self.low + share * (self.high - self.low)

    def holds(self, value: Any) -> bool:
        """Whether it is a number between the ends."""
        return _is_number(value, (int, float)) and self.low <= value <= self.high

    def changes(self, value: float) -> Mapping[str, Any]:
        """The recipe key set to a number."""
        return {self.key: value}


Dimension = Choices | Interval
Params = dict[str, Any]
"""One value or label for each dimension, by name."""


def _scheduler_of(value: Any) -> Any:
    """A bare word is a scheduler without settings; YAML reads a bare ``none`` as text, ``null`` as nothing."""
    name = value.get("name") if isinstance(value, Mapping) else value
    if isinstance(name, str) and name.lower() in _REFUSED:
        raise ValueError(f"{name} {_REFUSED[name.lower()]}: take asha, or none")
    return {"name": "none" if value is None else value} if not isinstance(value, Mapping) else value


class Scheduler(Section):
    """Which trials are stopped before their last step."""

    name: Literal["none", "asha"] = "none"
    grace_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1  # ours: share of the steps no trial is stopped within
    reduction: Annotated[float, Field(gt=1.0)] = 3.0  # ASHA's eta: the best third of each rung goes on


class Study(Section):
    """What to try, how to search, and what is better; see the module's text for the file."""

    question: Annotated[str, Field(min_length=1)]
    space: Annotated[dict[str, Any], Field(min_length=1)]
    recipe: dict[str, Any] = Field(default_factory=dict)
    search: Literal["grid", "random", "optuna"] = "grid"
    trials: Count | None = None
    draw_seed: Annotated[int, Field(ge=0)] = 0  # of random and optuna
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    metric: Literal["point_miou_ratio", "cell_miou_ratio"] = "point_miou_ratio"
    mode: Literal["max", "min"] = "max"
    scheduler: Annotated[Scheduler, BeforeValidator(_scheduler_of)] = Scheduler()

    @field_validator("metric", mode="before")
    @classmethod
    def _metric_is_known(cls, metric: Any) -> Any:
        if metric not in METRICS:
            hint = nearest(metric, METRICS) if isinstance(metric, str) else ""
            raise ValueError(f"expected {' or '.join(METRICS)}, got {shown(metric)}{hint}")
        return metric

    @field_validator("space", mode="before")
    @classmethod
    def _names_are_text(cls, space: Any) -> Any:
        if isinstance(space, Mapping) and (wrong := [name for name in space if not isinstance(name, str)]):
            raise ValueError(f"expected names that are text, got {shown(wrong[0])}")
        return space

    @field_validator("space")
    @classmethod
    def _dimensions_are_whole(cls, space: dict[str, Any]) -> dict[str, Any]:
        for name, value in space.items():
            _dimension(name, value)
        return space

    @field_validator("recipe")
    @classmethod
    def _keys_exist(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        for key in recipe:
            _require_known(key)
            if key.partition(".")[0] == "workers":
                raise ValueError(f"{key} is of the machine and not of the question: give the sweep --set {key}=…")
        return recipe

    @model_validator(mode="after")
    def _search_fits(self) -> "Study":
        if self.search == "grid":
            ends = [name for name, dimension in self.dimensions.items() if isinstance(dimension, Interval)]
            if ends:
                raise ValueError(
                    f"search grid tries lists, and {ends[0]} is an interval: list values, or search random"
                )
            if self.trials is not None:
                raise ValueError("search grid tries every combination: leave trials out, or search random or optuna")
        elif self.trials is None:
            raise ValueError(f"search {self.search} needs trials: how many combinations to try")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"a seed is listed twice: {list(self.seeds)}")
        if self.num_trials > MAX_TRIALS:
            raise ValueError(f"{self.num_trials} trials are more than {MAX_TRIALS}: list fewer values or seeds")
        if self.scheduler.name == "asha" and "train.steps" in self.space:
            raise ValueError("scheduler asha compares trials of equal length: leave train.steps out of the space")
        keys = [key for dimension in self.dimensions.values() for key in _keys_of(dimension)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"{twice[0]} is set by two dimensions: name it once")
        return self

    @property
    def dimensions(self) -> dict[str, Dimension]:
        """What ``space`` says, in its order."""
        return {name: _dimension(name, value) for name, value in self.space.items()}

    @property
    def num_combinations(self) -> int:
        """Settings to try, each with every seed."""
        if self.trials is not None:
            return self.trials
        return math.prod(len(one.labels) for one in self.dimensions.values() if isinstance(one, Choices))

    @property
    def num_trials(self) -> int:
        """Trainings at most: two combinations that make one recipe are trained once."""
        return self.num_combinations * len(self.seeds)

    def combinations(self) -> list[Params]:
        """All of them: of ``grid`` in the file's order, the last dimension first; of ``random`` the drawn ones."""
        if self.search == "grid":
            labels = [one.labels for one in self.dimensions.values() if isinstance(one, Choices)]
            return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*labels)]
        return [self.drawn(index) for index in range(self.num_combinations)]

    def drawn(self, index: int) -> Params:
        """Combination number ``index`` of a random search, whatever came before it."""
        names = sorted(self.space)  # the order of the file's lines decides nothing
        shares = dict(zip(names, np.random.default_rng([self.draw_seed, index]).random(len(names)), strict=True))
        return {name: dimension.at(float(shares[name])) for name, dimension in self.dimensions.items()}

    def holds(self, params: Params) -> bool:
        """Whether a combination of an earlier start is one of the space as it is now."""
        return set(params) == set(self.space) and all(one.holds(params[name]) for name, one in self.dimensions.items())

    def changes(self, params: Params) -> dict[str, Any]:
        """The recipe keys that a combination sets, those of every trial among them."""
        chosen: dict[str, Any] = {}
        for name, dimension in self.dimensions.items():
            chosen |= dimension.changes(params[name])
        return {**self.recipe, **chosen}


def load_study(path: str, changes: Iterable[str] = ()) -> Study:
    """Reads a study file, or the study of that name that ships with the package.

    Args:
        path: File or name.
        changes: ``KEY=VALUE`` of the study; ``space.NAME=VALUE`` of one dimension.

    Raises:
        RecipeError: No such file or name (the nearest is named), not YAML, an unknown key, a bad value.
    """
    known = shipped_studies()
    try:
        file = known.get(path, Path(path))
        text = file.read_bytes() if file.is_file() else None
    except OSError as error:
        raise RecipeError(f"study {shown(path)} cannot be read: {error.strerror}") from error
    if text is None:
        raise RecipeError(
            f"no study {shown(path)}{nearest(path, known)}: give a YAML file or one of {', '.join(known)}"
        )
    return parse_study(text, changes, path)


def shipped_studies() -> dict[str, Path]:
    """The studies of ``tune_spaces``, by name."""
    folder = Path(str(files("tune_spaces")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def list_studies() -> str:
    """Name and question of every shipped study, a line each."""
    return "\n".join(f"{name}: {load_study(name).question}" for name in shipped_studies())


def parse_study(text: str | bytes, changes: Iterable[str] = (), origin: str = "given") -> Study:
    """A study from YAML text; see ``load_study``."""
    content = read_yaml(text, f"study {origin}", RecipeError)
    if not isinstance(content, Mapping):
        raise RecipeError(f"study {origin}: expected a mapping with question and space, got {shown(content)}")
    content = dict(content)
    for key, value in assignments(changes, "seeds=[0, 1]", RecipeError, option="--study").items():
        part, _, name = key.partition(".")
        said = read_yaml(value, f"--study {key}", RecipeError)
        inner = content.get(part)
        content[part] = {**(inner if isinstance(inner, Mapping) else {}), name: said} if name else said
    if carries_credentials(content):
        raise RecipeError(f"study {origin} holds credentials inside a URI: set them in the environment instead")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise RecipeError("\n  ".join([f"study {origin} does not fit:", *explain(error, Study)])) from error


def _dimension(name: str, value: Any) -> Dimension:
    if isinstance(value, list):
        _require_key(name)
        return _listed(name, value, [{name: one} for one in value])
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"{name}: expected a list of values or {{uniform: [low, high]}}, got {shown(value)}")
    if all(isinstance(inner, Mapping) for inner in value.values()):
        for label, settings in value.items():
            if not isinstance(label, str) and not _is_number(label, (int, float)):
                raise ValueError(f"{name}: expected labels that are text or numbers, got {shown(label)}")
            for key in settings:
                _require_key(key)
        return _listed(name, list(value), list(value.values()))
    return _interval(name, value)


def _listed(name: str, labels: list[Any], settings: list[Mapping[str, Any]]) -> Choices:
    if not labels:
        raise ValueError(f"{name}: expected at least one value")
    if any(one in labels[:place] for place, one in enumerate(labels)):
        raise ValueError(f"{name}: a value is listed twice in {shown(labels)}")
    return Choices(tuple(labels), tuple(settings))


def _interval(name: str, value: Mapping[Any, Any]) -> Interval:
    _require_key(name)
    kind, ends = next(iter(value.items()))
    if len(value) > 1 or kind not in _KINDS:
        hint = nearest(kind, _KINDS) if isinstance(kind, str) else ""
        raise ValueError(f"{name}: expected one of {', '.join(_KINDS)} with [low, high], got {shown(value)}{hint}")
    wanted = int if kind == "integers" else (int, float)
    is_pair = isinstance(ends, list) and len(ends) == 2 and all(_is_number(end, wanted) for end in ends)
    if not is_pair or not ends[0] < ends[1]:
        word = "whole numbers" if kind == "integers" else "finite numbers"
        raise ValueError(f"{name}: {kind} expects [low, high], two {word} of which the first is smaller")
    if kind == "loguniform" and ends[0] <= 0:
        raise ValueError(f"{name}: loguniform expects ends above 0, got {shown(ends)}")
    return Interval(name, kind, *ends)


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < 1e300


def _require_known(key: Any) -> None:
    known = dotted_keys(Recipe)
    if not isinstance(key, str) or key not in known:
        hint = nearest(key, known) if isinstance(key, str) else ""
        raise ValueError(f"unknown recipe key {shown(key)}{hint}")
    if key in _SEED_KEYS:
        raise ValueError(f"{key} is set by `seeds`, which gives every combination the same ones: list them there")


def _require_key(key: Any) -> None:
    _require_known(key)
    if any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS):
        raise ValueError(f"{key} decides no result: set it for the whole sweep with --set")


def _keys_of(dimension: Dimension) -> set[str]:
    return {dimension.key} if isinstance(dimension, Interval) else {key for one in dimension.settings for key in one}
