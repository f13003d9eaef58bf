"""The order of trials: every combination with every seed once, what is over left out, what was begun first."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean

from ray_lidarseg.recipe.schema import Recipe
from ray_lidarseg.sweep.proposals import proposals
from ray_lidarseg.sweep.study import Choices, Params, Study
from ray_lidarseg.sweep.trials import Trial, make_trial


class TrialQueue:
    """Trials one after another, and what the search is told of them.

    Args:
        study: What to try.
        base: The recipe of every trial.
        earlier: Trials of an earlier start, by name.

    Attributes:
        earlier: As given.
        trials: Those the search has come to, in its order.
    """

    def __init__(self, study: Study, base: Recipe, earlier: Mapping[str, Trial]):
        self._study, self._base, self.earlier = study, base, dict(earlier)
        self.trials: dict[str, Trial] = {}
        if study.search == "optuna":  # it proposes anew, and never what is over
            mine = {name: one for name, one in sorted(self.earlier.items()) if one.is_over and one.seed in study.seeds}
            self.trials = {name: trial for name, trial in mine.items() if study.holds(trial.params)}
        self._open: list[tuple[Params, list[str]]] = []
        self._waiting: list[Trial] = []
        self._proposals = proposals(study, self._known())

    def check(self) -> list[Trial]:
        """Tries every combination before the first is trained: all of a list; of Optuna's space the ends and values.

        Returns:
            A trial of each that is left to train.

        Raises:
            LidarSegError: A combination makes no valid recipe, see ``make_trial``.
        """
        if self._study.search == "optuna":
            return [make_trial(self._study, self._base, params, self._study.seeds[0]) for params in _ends(self._study)]
        while (params := self._proposals.next()) is not None:
            self._expand(params)
        return list(self._waiting)

    def next(self) -> Trial | None:
        """A trial that is not over; None when there are no more to begin.

        Raises:
            LidarSegError: A combination makes no valid recipe, see ``make_trial``.
        """
        while not self._waiting:
            if (params := self._proposals.next()) is None:
                return None
            self._expand(params)
        return self._waiting.pop(0)

    def give_back(self, trial: Trial) -> None:
        """Takes a trial that was given and not begun; it is the next one."""
        trial.state = "waiting"
        self._waiting.insert(0, trial)

    @property
    def is_waiting(self) -> bool:
        """Whether a trial is there that was not given yet, or was given back."""
        return bool(self._waiting)

    def done(self) -> None:
        """Tells the search what every combination was worth whose trials are all over."""
        for params, names in list(self._open):
            members = [self.trials[name] for name in names]
            if all(trial.is_over for trial in members):
                self._open.remove((params, names))
                self._proposals.tell(params, self._worth(members))

    def _expand(self, params: Params) -> None:
        names = []
        for seed in self._study.seeds:
            trial = make_trial(self._study, self._base, params, seed)
            names.append(trial.name)
            if trial.name in self.trials:  # another combination makes the same recipe
                continue
            trial = replace(self.earlier.get(trial.name, trial), params=params)
            self.trials[trial.name] = trial
            if not trial.is_over:
                self._waiting.append(trial)
        self._open.append((params, names))
        self.done()

    def _worth(self, members: list[Trial]) -> float | None:
        """The mean over the seeds; None where one of them failed."""
        values = [trial.value(self._study.metric) for trial in members if trial.state != "failed"]
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(members) else None

    def _known(self) -> list[tuple[Params, float | None, bool]]:
        """Combinations of the earlier trials in no order of their own: by name, so that a restart knows the same."""
        by_params: dict[str, list[Trial]] = {}
        for _, trial in sorted(self.earlier.items()):
            if not self._study.holds(trial.params):
                continue
            by_params.setdefault(repr(sorted(trial.params.items())), []).append(trial)
        found = []
        for members in by_params.values():
            is_over = {trial.seed for trial in members if trial.is_over} >= set(self._study.seeds)
            found.append((members[0].params, self._worth(members), is_over))
        return found


def _ends(study: Study) -> Iterator[Params]:
    """The ends and the listed values of every dimension, each by itself."""
    dimensions = study.dimensions
    first = {name: one.at(0.0) for name, one in dimensions.items()}
    for name, one in dimensions.items():
        for value in one.labels if isinstance(one, Choices) else (one.at(0.0), one.at(1.0 - 1e-9)):
            yield {**first, name: value}
