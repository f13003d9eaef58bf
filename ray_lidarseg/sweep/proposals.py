"""Which combination a sweep tries next: from a list, or from what Optuna has learnt of those before."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from ray_lidarseg.errors import ResourceError
from ray_lidarseg.sweep.study import Choices, Params, Study

Known = Iterable[tuple[Params, float | None, bool]]
"""Combinations of an earlier start: what they are, their value, and whether that is final."""


class Proposals(ABC):
    """Gives combinations, and is told what came of them."""

    @abstractmethod
    def next(self) -> Params | None:
        """The next combination; None after the last."""

    @abstractmethod
    def tell(self, params: Params, value: float | None) -> None:
        """Takes what a combination was worth; None: it failed."""


def proposals(study: Study, known: Known) -> Proposals:
    """What ``study.search`` asks for.

    Raises:
        ResourceError: The search needs a package that is not installed.
    """
    return OptunaProposals(study, known) if study.search == "optuna" else ListedProposals(study)


class ListedProposals(Proposals):
    """All combinations of a grid, or the drawn ones, in order; results change nothing."""

    def __init__(self, study: Study):
        self._left = iter(study.combinations())

    def next(self) -> Params | None:
        """As the base says."""
        return next(self._left, None)

    def tell(self, params: Params, value: float | None) -> None:
        """Nothing to learn."""


class OptunaProposals(Proposals):
    """Optuna's tree-structured Parzen estimator (TPE).

    Source: Bergstra et al. 2011, as Optuna has it; the first ten combinations are random (its default).

    Args:
        study: Space, mode, number of combinations and seed.
        known: Of an earlier start; those that are not over are proposed first.
    """

    def __init__(self, study: Study, known: Known = ()):
        try:
            import optuna
        except ImportError as error:
            raise ResourceError(
                "search optuna needs the package optuna: pip install 'ray-lidarseg[optuna]', or search random"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._dimensions = optuna, study.dimensions
        self._spaces = {name: _distribution(optuna, one) for name, one in self._dimensions.items()}
        earlier = list(known)
        # A sampler begins its random numbers anew: with the seed of the first start it would repeat its first draws.
        sampler = optuna.samplers.TPESampler(seed=study.draw_seed + len(earlier))
        direction = "maximize" if study.mode == "max" else "minimize"
        self._study = optuna.create_study(sampler=sampler, direction=direction)
        self._left = study.num_combinations - sum(is_over for _, _, is_over in earlier)
        self._asked: list[tuple[Params, Any]] = []
        for params, value, is_over in earlier:
            if is_over:
                self._study.add_trial(self._past(params, value))
            else:
                self._study.enqueue_trial(self._numbers(params))

    def next(self) -> Params | None:
        """As the base says."""
        if self._left <= 0:
            return None
        self._left -= 1
        asked = self._study.ask(self._spaces)
        params = {name: self._value(name, number) for name, number in asked.params.items()}
        self._asked.append((params, asked))
        return params

    def tell(self, params: Params, value: float | None) -> None:
        """As the base says."""
        place = next(place for place, (asked, _) in enumerate(self._asked) if asked == params)
        _, asked = self._asked.pop(place)
        failed = self._optuna.trial.TrialState.FAIL
        self._study.tell(asked, value, state=failed if value is None else None)

    def _past(self, params: Params, value: float | None) -> Any:
        states = self._optuna.trial.TrialState
        return self._optuna.trial.create_trial(
            state=states.FAIL if value is None else states.COMPLETE,
            value=value,
            params=self._numbers(params),
            distributions=self._spaces,
        )

    def _numbers(self, params: Params) -> dict[str, Any]:
        """Optuna takes no lists: of listed values it chooses the place in the list."""
        return {
            name: one.labels.index(params[name]) if isinstance(one, Choices) else params[name]
            for name, one in self._dimensions.items()
        }

    def _value(self, name: str, number: Any) -> Any:
        one = self._dimensions[name]
        return one.labels[number] if isinstance(one, Choices) else number


def _distribution(optuna: Any, one: Any) -> Any:
    kinds = optuna.distributions
    if isinstance(one, Choices):
        return kinds.CategoricalDistribution(range(len(one.labels)))
    if one.kind == "integers":
        return kinds.IntDistribution(int(one.low), int(one.high))
    return kinds.FloatDistribution(float(one.low), float(one.high), log=one.kind == "loguniform")
