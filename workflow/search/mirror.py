"""Show the trials of a search in MLflow, each when it has ended (`mlflow_store/search_runs`).

MLflow holds a copy for people to look at; the search never reads it. If the registry does not
answer, or a worker is killed while it writes, nothing is lost: the missing trials are written
together with the next trial that ends, and `rlready search sync` writes all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rlready.predictors.search.trials import (
    CHECKPOINT,
    ERRORS,
    GPU_HOURS,
    LEASE,
    MIRRORED,
    PREDICTED,
    PUBLIC,
    RECIPE,
    RUN,
    STOPPED,
    UID,
    current,
)
from rlready.predictors.search.values import comparable, has_standings
from rlready.registry.digest import digest
from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.search_runs import (
    MirroredStudy,
    MirroredTrial,
    TrialState,
    mirroring,
)
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

    from rlready.registry.mlflow_store.store import MlflowStore

_AT_ONCE = 20
"""Trials that are written under one lock. Over HTTP, a lock expires after a minute."""

_OBJECTIVES = ("value", "cost")
_FACTS = (
    *("origin", "domain", "domain_reason", "worker", "failed", "stopped"),
    *("is_predicted", "public", "supersedes", "late"),
)
_STATES: dict[str, TrialState] = {"COMPLETE": "told", "FAIL": "failed", "PRUNED": "stopped"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Mirror:
    """The registry that shows the trials of a search.

    Args:
        store: the registry.
        is_wanted: False shows only a search that was shown there before.
        warn: called with a message if the registry fails.
    """

    store: MlflowStore
    is_wanted: bool = True
    warn: Callable[[str], None] = lambda text: None

    def shows(self, study: Study) -> bool:
        """Return whether the study is to be shown."""
        return self.is_wanted or _place(self.store) in study.user_attrs.get(MIRRORED, [])

    def update(self, study: Study, facts: Mapping[str, str], *, everything: bool = False) -> int:
        """Write ended trials that MLflow does not show yet, the newest first; return how many.

        Args:
            study: the study of the search.
            facts: tags of its run.
            everything: False writes at most 20.
        """
        n_written = 0
        try:
            while n := self._write(study, facts):
                n_written += n
                if not everything:
                    break
        except StoreError as error:
            self.warn(f"the search is not mirrored to MLflow for now: {error}")
        return n_written

    def _write(self, study: Study, facts: Mapping[str, str]) -> int:
        trials = study.get_trials(deepcopy=False)
        ended = [one for one in reversed(trials) if _state(one) and RECIPE in one.user_attrs]
        if not ended:
            return 0
        with mirroring(self.store, study.user_attrs[UID]) as writer:
            shown = writer.ended_trials()
            missing = [one for one in ended if one.number not in shown][:_AT_ONCE]
            if missing:
                parent = writer.put_study(_study_record(study, trials, facts))
            for trial in missing:
                writer.put_trial(parent, _trial_record(trial))
        places = study.user_attrs.get(MIRRORED, [])
        if missing and _place(self.store) not in places:
            study.set_user_attr(MIRRORED, [*places, _place(self.store)])
        return len(missing)


def _place(store: MlflowStore) -> str:
    return digest([store.tracking_uri, store.experiment])


def _state(trial: FrozenTrial) -> TrialState | None:
    """Return how a trial ended; None if it has not ended or was never given to a worker."""
    if trial.state.name == "PRUNED" and STOPPED not in trial.user_attrs:
        return None
    return _STATES.get(trial.state.name)


def _trial_record(trial: FrozenTrial) -> MirroredTrial:
    attributes, state = trial.user_attrs, _state(trial)
    assert state is not None
    tags = {key: attributes.get(f"rlready:{key}") for key in _FACTS}
    return MirroredTrial(
        number=trial.number,
        state=state,
        recipe=Recipe.from_dict(attributes[RECIPE]),
        began_ms=_ms(trial.datetime_start),
        ended_ms=_ms(trial.datetime_complete),
        tags={**tags, "retries": attributes.get(LEASE, {}).get("retries")},
        metrics=_trial_metrics(trial),
        checkpoint_id=attributes.get(CHECKPOINT) or attributes.get(RUN),
    )


def _trial_metrics(trial: FrozenTrial) -> dict[str, float]:
    attributes = trial.user_attrs
    values: list[float | None] = list(trial.values) if trial.state.name == "COMPLETE" else []
    if PUBLIC in attributes:
        values[0] = None  # it moves with the registry, and may be in another unit
    predicted, errors = attributes.get(PREDICTED) or [], attributes.get(ERRORS) or []
    metrics: dict[str, Any] = {"gpu_hours": attributes.get(GPU_HOURS)}
    for k, name in enumerate(_OBJECTIVES):
        metrics[name] = values[k] if k < len(values) else None
        metrics[f"{name}_se"] = errors[k] if k < len(errors) else None
        if k < len(predicted):
            metrics[f"predicted_{name}"], metrics[f"predicted_{name}_sd"] = predicted[k]
    return {k: float(v) for k, v in metrics.items() if v is not None and math.isfinite(v)}


def _study_record(
    study: Study, trials: list[FrozenTrial], facts: Mapping[str, str]
) -> MirroredStudy:
    finished = [t for t in current(trials) if t.state.name == "COMPLETE" and t.values]
    metrics = {"n_told": float(len(finished))}
    valued = comparable(study, finished)
    if valued and not has_standings(study, valued):
        metrics["best_value"] = max(t.values[0] for t in valued)
    return MirroredStudy(
        name=study.study_name,
        tags=facts,
        metrics=metrics,
        n_told=len(finished),
        at_ms=max((_ms(t.datetime_complete) for t in finished), default=0),
        is_running=any(t.state.name == "RUNNING" for t in trials),
    )


def _ms(at: datetime | None) -> int:
    return 0 if at is None else round(at.timestamp() * 1000)
