"""Optuna's storage, with a first look at a large study that takes no longer than it has to.

A new worker reads every trial once. Optuna does so through objects of SQLAlchemy and parses the
distribution of each parameter of each trial: 9 CPU-s for 10,000 trials. Here plain rows are read,
and each distribution is parsed once. All else is Optuna's own, later looks too, which see what has
changed only.

Its class has Optuna's as its base, so this module imports Optuna and is imported late.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections import defaultdict
from collections.abc import Callable, Container
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState


class QuickStorage(RDBStorage):
    """`RDBStorage` whose first reading of a whole study is quick."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        is_whole = states is None and not included_trial_ids and trial_id_greater_than < 0
        if is_whole and set(_COLUMNS) <= set(models.TrialModel.__table__.columns.keys()):
            return self._whole_study(study_id)
        return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)

    def _whole_study(self, study_id: int) -> list[FrozenTrial]:
        trials = models.TrialModel.__table__
        with self.engine.connect() as connection:

            def rows_of(model: Any, *columns: str) -> dict[int, list[Any]]:
                """Rows of a table by trial, in the order in which they were written."""
                table = model.__table__
                wanted = (
                    sa.select(table.c.trial_id, *(table.c[name] for name in columns))
                    .join(trials, trials.c.trial_id == table.c.trial_id)
                    .where(trials.c.study_id == study_id)
                    .order_by(next(iter(table.primary_key)))
                )
                found: dict[int, list[Any]] = defaultdict(list)
                for trial_id, *row in connection.execute(wanted):
                    found[trial_id].append(row)
                return found

            # Before what belongs to them: of a trial that is read as finished everything is there.
            heads = connection.execute(
                sa.select(*(trials.c[name] for name in _COLUMNS))
                .where(trials.c.study_id == study_id)
                .order_by(trials.c.trial_id)
            ).all()
            params = rows_of(
                models.TrialParamModel, "param_name", "param_value", "distribution_json"
            )
            values = rows_of(models.TrialValueModel, "objective", "value", "value_type")
            user = rows_of(models.TrialUserAttributeModel, "key", "value_json")
            system = rows_of(models.TrialSystemAttributeModel, "key", "value_json")
            steps = rows_of(
                models.TrialIntermediateValueModel,
                "step",
                "intermediate_value",
                "intermediate_value_type",
            )
        parsed: Callable[[str], BaseDistribution] = functools.cache(json_to_distribution)
        to_value = models.TrialValueModel.stored_repr_to_value
        to_step = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
        return [
            FrozenTrial(
                number=number,
                state=state,
                value=None,
                values=[to_value(value, kind) for _, value, kind in sorted(values[id_])] or None,
                datetime_start=_local(start),
                datetime_complete=_local(complete),
                params={
                    name: parsed(law).to_external_repr(value) for name, value, law in params[id_]
                },
                distributions={name: parsed(law) for name, _, law in params[id_]},
                user_attrs={key: json.loads(text) for key, text in user[id_]},
                system_attrs={key: json.loads(text) for key, text in system[id_]},
                intermediate_values={step: to_step(v, kind) for step, v, kind in steps[id_]},
                trial_id=id_,
            )
            for id_, number, state, start, complete in heads
        ]


_COLUMNS = ("trial_id", "number", "state", "datetime_start", "datetime_complete")


def _local(at: datetime.datetime | None) -> datetime.datetime | None:
    """Optuna keeps naive UTC and shows naive local time."""
    return None if at is None else at.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)
