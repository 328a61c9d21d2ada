"""A trial of a search in its study: its recipe, and who works on it until when."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlready.predictors.search.study import Asked
from rlready.predictors.search.trials import LEASE, RECIPE, Lease, was_asked
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.search.open import Search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RELEASED = 0.0
"""Deadline of a lease whose worker has given the trial back."""


class LeasedTrial:
    """A trial that was asked for, by its number; `Trial` adds what it gave.

    The lease is an attribute of the trial, and is only written under the study's lock, so that
    two workers never hold one trial. Optuna's heartbeat was tried in its place: a worker that is
    killed between marking a stale trial failed and adding its retry loses the trial for good.

    Args:
        search: that it belongs to.
        number: in the study.
        asked: its recipe, where the caller has it.

    Attributes:
        folder: where its recipe is, and its results go.
        held: the lease, for the worker that asked.

    Raises:
        ConfigError: if the study has asked for no such trial.
    """

    def __init__(self, search: Search, number: int, *, asked: Asked | None = None) -> None:
        self.search, self.number, self._asked = search, number, asked
        self.folder = search.root / f"trial-{number:04d}"
        self.held: Lease | None = None
        try:
            self._id = search.trial_id(number)
            is_known = was_asked(self.frozen)
        except KeyError:
            is_known = False
        if not is_known:
            raise ConfigError(
                f"study {search.config.name!r} has asked for no trial {number}",
                fix=f"See {search.root}, or `rlready search report`",
            )

    @property
    def frozen(self) -> FrozenTrial:
        """The trial as it stands in the study, not to be changed."""
        return self.search.storage.get_trial(self._id)

    @property
    def asked(self) -> Asked | None:
        """The recipe and what was predicted of it; None if its asker was killed before that."""
        attributes = self.frozen.user_attrs
        if self._asked is None and RECIPE in attributes:
            self._asked = Asked.of(self.number, attributes)
        return self._asked

    @property
    def recipe(self) -> Recipe:
        """What was asked for."""
        if self.asked is None:
            raise ConfigError(f"trial {self.number} has no recipe")
        return self.asked.recipe

    @property
    def lease(self) -> Lease | None:
        """Who holds the trial; None if nobody has said so, or it has ended."""
        frozen = self.frozen
        values = None if frozen.state.is_finished() else frozen.user_attrs.get(LEASE)
        return None if values is None else Lease(**values)

    @property
    def step(self) -> int | None:
        """The rung to climb next; None if the search has no rungs."""
        rungs = self.search.rungs
        return None if rungs is None else rungs.next_step(self.frozen.intermediate_values)

    def write(self, attributes: Mapping[str, Any]) -> None:
        """Write attributes; those of a trial that has ended stay as they are."""
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError):
            for key, value in attributes.items():
                self.search.storage.set_trial_user_attr(self._id, key, value)

    def hold(self, worker: str, *, retries: int = 0, until: float | None = None) -> Lease:
        """Give the trial to a worker; the caller holds the study's lock.

        Args:
            worker: its name.
            retries: how often the trial was offered again.
            until: seconds since 1970; default: the period of a lease from now.
        """
        deadline = self._deadline() if until is None else until
        self.held = Lease(worker=worker, deadline=deadline, retries=retries)
        self.write({LEASE: asdict(self.held)})
        return self.held

    def renew(self) -> None:
        """Hold the trial for another period, unless another worker has it by now."""
        self._change_deadline(self._deadline())

    def release(self) -> None:
        """Offer the trial to the next worker at once."""
        self._change_deadline(RELEASED)

    def _change_deadline(self, deadline: float) -> None:
        with self.search.lock():
            lease = self.lease
            if lease is not None and (self.held is None or _is_same_claim(lease, self.held)):
                self.hold(lease.worker, retries=lease.retries, until=deadline)

    def _deadline(self) -> float:
        return self.search.clock() + self.search.config.lease_s


def _is_same_claim(lease: Lease, other: Lease) -> bool:
    return (lease.worker, lease.retries) == (other.worker, other.retries)
