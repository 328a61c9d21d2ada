"""Keeps a search's runs in MLflow in line with its study (`registry/search_mirror`).

The study's database holds, for each trial and registry, the run and what was written of it last.
So a call writes what has changed and no more, also in a study of 10,000 trials; a call that is
killed, or meets a registry that does not answer, leaves the rest to the next one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rlready.predictors.search.study import current, superseded
from rlready.registry.digest import digest
from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.search_runs import (
    MirroredStudy,
    MirroredTrial,
    MirrorWriter,
    TrialState,
    mirroring,
)
from rlready.registry.records import Recipe
from rlready.workflow.search.leases import made_table

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from sqlalchemy import Engine

    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.workflow.progress import Clock
    from rlready.workflow.search.leases import Leases

A_FEW = 20
"""Trials that a call writes which has other things to do."""

_TABLE = "rlready_mirror"
_STUDY = -1  # the number under which the study's own run stands
# A claim over HTTP is broken after a minute.
_A_LOCK = 25

_OBJECTIVES = ("value", "cost")
_SHOWN = ("origin", "domain", "domain_reason", "worker", "failed", "is_predicted", "late")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of a trial's run.

    Args:
        run_id: None if somebody began to make one.
        mark: of what was written last.
    """

    run_id: str | None
    mark: str


class Mirror:
    """The runs of one study in one registry.

    Args:
        store: the registry.
        study: of Optuna.
        leases: who works on what.
        engine: of the study's database.
        uid: id of the study.
        facts: of the search, shown on its run.
        warn: told, once a call, if the registry fails.
        progress: shows long writing.
    """

    def __init__(
        self,
        store: MlflowStore,
        study: Study,
        leases: Leases,
        engine: Engine,
        *,
        uid: str,
        facts: dict[str, str],
        warn: Callable[[str], None] = lambda text: None,
        progress: Clock | None = None,
    ) -> None:
        self._store, self._study, self._leases, self._uid = store, study, leases, uid
        self._facts, self._warn, self._progress = facts, warn, progress
        place = digest([store.tracking_uri, store.experiment])
        self._ledger = Ledger(engine, study.study_name, place)

    @property
    def is_begun(self) -> bool:
        """Whether this registry has a run of the study."""
        return _STUDY in self._ledger.all()

    def update(self, at_most: int | None = None) -> int:
        """Write trials that have changed, the newest first; returns how many.

        A registry that fails is told by `warn`: the study has everything, and the next call
        writes what is missing.

        Args:
            at_most: write so many; None: all.
        """
        n_done = 0
        try:
            total = len(self._changed())
            total = total if at_most is None else min(at_most, total)
            if not total:
                return 0
            with _shown(self._progress, total) as advance:
                while n_done < total:
                    n = self._write(min(_A_LOCK, total - n_done))
                    if not n:
                        break
                    n_done += n
                    advance(n)
        except StoreError as error:
            self._warn(f"the search is not mirrored to MLflow for now: {error}")
        return n_done

    def _write(self, at_most: int) -> int:
        with mirroring(self._store, self._uid) as writer:
            entries = self._ledger.all()
            known = entries.get(_STUDY)
            if known is not None and known.run_id and not writer.is_there(known.run_id):
                self._ledger.forget()
                entries = {}
            # Read again: another may have written them while this one waited.
            trials = self._changed()[:at_most]
            if not trials:
                return 0
            parent = self._put_study(writer, entries.get(_STUDY))
            for trial, mark in trials:
                entry = entries.get(trial.number)
                if entry is None:
                    self._ledger.begin(trial.number)
                run_id = writer.put_trial(
                    parent,
                    trial,
                    entry.run_id if entry else None,
                    is_doubtful=entry is not None and entry.run_id is None,
                )
                self._ledger.done(trial.number, run_id, mark)
        return len(trials)

    def _put_study(self, writer: MirrorWriter, entry: Entry | None) -> str:
        if entry is None:
            self._ledger.begin(_STUDY)
        record = _study_record(self._study, self._uid, self._facts)
        run_id = writer.put_study(record, entry.run_id if entry else None)
        self._ledger.done(_STUDY, run_id, "")
        return run_id

    def _changed(self) -> list[tuple[MirroredTrial, str]]:
        trials = self._study.get_trials(deepcopy=False)
        entries, held = self._ledger.all(), {x.trial: x for x in self._leases.all()}
        replaced = superseded(trials)
        found = []
        for trial in reversed(trials):
            state = _state(trial)
            if state is None or "rlready:recipe" not in trial.user_attrs:
                continue
            by, entry = replaced.get(trial.number), entries.get(trial.number)
            mark = f"{state} {by}"
            # What is finished never changes: of 10,000 trials few need a look.
            if state != "running" and entry and entry.run_id and entry.mark == mark:
                continue
            lease = held.get(trial.number)
            facts = {"retries": lease.retries if lease else None, "superseded_by": by}
            record = _trial_record(trial, state, facts)
            mark = mark if state != "running" else digest(repr(record))
            if entry is None or entry.run_id is None or entry.mark != mark:
                found.append((record, mark))
        return found


class Ledger:
    """Which run each trial of a study has in one registry, and the mark of what it shows.

    Args:
        engine: of the study's database.
        study: its name.
        place: of the registry.
    """

    def __init__(self, engine: Engine, study: str, place: str) -> None:
        self._engine, self._study, self._place = engine, study, place
        self._table = made_table(
            engine,
            _TABLE,
            {"study": 512, "place": 32, "trial": None},
            {"run_id": 64, "mark": 64},
        )

    def all(self) -> dict[int, Entry]:
        """The entries by trial."""
        import sqlalchemy as sa

        table = self._table
        wanted = sa.select(table.c.trial, table.c.run_id, table.c.mark).where(*self._here())
        with self._engine.connect() as connection:
            rows = connection.execute(wanted).all()
        return {trial: Entry(run_id=run_id or None, mark=mark) for trial, run_id, mark in rows}

    def begin(self, trial: int) -> None:
        """Say that a run is about to be made."""
        row = {"study": self._study, "place": self._place, "trial": trial, "run_id": "", "mark": ""}
        with self._engine.begin() as connection:
            connection.execute(self._table.insert().values(**row))

    def done(self, trial: int, run_id: str, mark: str) -> None:
        """Say what its run is and what it shows."""
        statement = self._table.update().where(*self._here(), self._table.c.trial == trial)
        with self._engine.begin() as connection:
            connection.execute(statement.values(run_id=run_id, mark=mark))

    def forget(self) -> None:
        """Drop all entries: the registry has none of the runs any more."""
        with self._engine.begin() as connection:
            connection.execute(self._table.delete().where(*self._here()))

    def _here(self) -> tuple[Any, Any]:
        return self._table.c.study == self._study, self._table.c.place == self._place


_STATES: dict[str, TrialState] = {"RUNNING": "running", "COMPLETE": "told", "FAIL": "failed"}


def _state(trial: FrozenTrial) -> TrialState | None:
    """How far a trial is; None if nobody ever got it to train."""
    return _STATES.get(trial.state.name)


def _trial_record(
    trial: FrozenTrial,
    state: TrialState,
    facts: Mapping[str, object],
) -> MirroredTrial:
    kept = trial.user_attrs
    known = {key: kept.get(f"rlready:{key}") for key in _SHOWN}
    return MirroredTrial(
        number=trial.number,
        state=state,
        recipe=Recipe.from_dict(kept["rlready:recipe"]),
        began_ms=_ms(trial.datetime_start) or 0,
        ended_ms=_ms(trial.datetime_complete),
        tags={**known, **facts},
        metrics=_trial_metrics(trial),
        checkpoint_id=kept.get("rlready:checkpoint") or kept.get("rlready:run"),
    )


def _trial_metrics(trial: FrozenTrial) -> dict[str, float]:
    kept, values = trial.user_attrs, trial.values or []
    predicted, errors = kept.get("rlready:predicted") or [], kept.get("rlready:errors") or []
    found: dict[str, Any] = {"gpu_hours": kept.get("rlready:gpu_hours")}
    for k, name in enumerate(_OBJECTIVES):
        found[name] = values[k] if k < len(values) else None
        found[f"{name}_se"] = errors[k] if k < len(errors) else None
        found[f"predicted_{name}"], found[f"predicted_{name}_sd"] = (
            predicted[k] if k < len(predicted) else (None, None)
        )
    return {k: float(v) for k, v in found.items() if v is not None and math.isfinite(v)}


def _study_record(study: Study, uid: str, facts: dict[str, str]) -> MirroredStudy:
    trials = study.get_trials(deepcopy=False)
    told = [t for t in current(trials) if t.state.name == "COMPLETE" and t.values]
    metrics = {"n_told": float(len(told))}
    if told:
        metrics["best_value"] = max(t.values[0] for t in told)
    return MirroredStudy(
        uid=uid,
        name=study.study_name,
        tags=facts,
        metrics=metrics,
        n_told=len(told),
        at_ms=max((_ms(t.datetime_complete) or 0 for t in told), default=0),
        is_running=any(t.state.name == "RUNNING" for t in trials),
    )


def _ms(at: datetime | None) -> int | None:
    return None if at is None else round(at.timestamp() * 1000)


def _shown(progress: Clock | None, total: int) -> AbstractContextManager[Callable[[int], Any]]:
    if progress is None or total <= A_FEW:
        return contextlib.nullcontext(lambda n: None)
    return progress.stage("mirror", "Mirroring the search to MLflow", total, "trials")
