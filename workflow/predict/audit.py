"""Freeze what `rank` and `plan` predict, and judge it when the outcomes have arrived."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.decisions.audit import AuditScore, audit, newest_before
from rlready.predictors.decisions.prior_ranking import PriorRanking, PriorRow
from rlready.predictors.public.prior import shipped_prior
from rlready.predictors.training_table import TrainingTable
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError, StoreError
from rlready.registry.frozen_prediction import FrozenPrediction, FrozenRow
from rlready.registry.mlflow_store.frozen_predictions import frozen_predictions, put_frozen
from rlready.registry.table import checkpoint_table
from rlready.workflow.predict.first_day import PUBLIC, FirstDay
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.predict.registry_table import NO_OUTCOME, practice_column

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.mlflow_store.store import MlflowStore

MOST_COMPARED = 100
"""Number of checkpoints of a group, in the order of a ranking, whose chances are frozen."""

_DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """The scores of all frozen predictions of one target.

    Args:
        target: the outcome.
        scores: scores of each frozen prediction, the oldest first.
        overall: scores of the last prediction of each checkpoint before its outcome; None if
            nothing can be judged yet.
    """

    target: str
    scores: tuple[AuditScore, ...]
    overall: AuditScore | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as one JSON object: the contract of `rlready audit --json`."""
        return {
            "target": self.target,
            "scores": [score.to_dict() for score in self.scores],
            "overall": None if self.overall is None else self.overall.to_dict(),
            "verdict": self.in_words(),
        }

    def in_words(self) -> str:
        """Return the verdict as one sentence."""
        overall = self.overall
        if overall is None:
            return (
                f"Nothing can be judged yet: no checkpoint with a frozen prediction of "
                f"{self.target} has got an outcome since."
            )
        s = "" if overall.n_judged == 1 else "s"
        parts = [f"Judged on {overall.n_judged} prediction{s} made before the outcome"]
        if overall.coverage is not None:
            of = "" if overall.n_with_score == overall.n_judged else f"of {overall.n_with_score} "
            of += "with a predicted score, " if of else ""
            parts.append(f"{of}{overall.coverage:.0%} lie in their {overall.level:.0%} intervals")
        if overall.bias is not None:
            error = "" if overall.bias_se is None else f" ± {overall.bias_se:.2g}"
            parts.append(f"outcome minus prediction {overall.bias:+.3g}{error} on average")
        if overall.pairs_right is not None:
            parts.append(f"{overall.pairs_right:.0%} of pairs in the right order")
        if overall.brier is not None:
            parts.append(
                f"of {overall.n_chances} orders of two with a chance, {overall.chances_right:.0%} "
                f"were right and {overall.chances_claimed:.0%} had been claimed "
                f"(Brier score {overall.brier:.2f})"
            )
        return "; ".join([*parts, *self._last_choice(), *self._without_regret()]) + "."

    def _without_regret(self) -> list[str]:
        """Return why predictions with outcomes have no regret, once for each reason."""
        reasons = dict.fromkeys(
            (score.command, score.no_regret)
            for score in self.scores
            if score.no_regret and score.n_judged
        )
        return [f"no regret of {command} is judged: {why}" for command, why in reasons]

    def _last_choice(self) -> list[str]:
        """Return the regret of the last choice that can be compared with current practice."""
        for score in reversed(self.scores):
            if score.regret is not None and score.practice_regret is not None:
                day = datetime.fromtimestamp(score.at_ms / 1000, UTC).date()
                return [
                    f"the choice by {score.command} on {day} lost {score.regret:.3g} "
                    f"({score.n_chosen_judged} of it judged), as many by the score before RL "
                    f"{score.practice_regret:.3g} ({score.n_practice_judged} judged)"
                ]
        return []


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """The predictions that were frozen for `rlready audit`.

    Args:
        n_predictions: number of predictions, for checkpoints without an outcome.
        is_new: whether they were written now; False if the same ones were written before, None if
            nothing could be written.
        note: the result in words.
    """

    n_predictions: int
    is_new: bool | None
    note: str


def freeze(store: MlflowStore, made: FrozenPrediction | None) -> Freeze:
    """Store a record of predictions, unless the same one is stored already.

    If the registry cannot be written, the ranking continues and the note says why.

    Args:
        store: the registry.
        made: the record; None if nothing was predicted.

    Example:
        >>> freeze(store, first_day_prediction(day, ranking, "rank", [], at_ms=1)).is_new
        True
    """
    n = 0 if made is None else sum(not row.had_outcome for row in made.rows)
    if made is None or not n:
        note = "every checkpoint has an outcome: there is nothing to freeze for `rlready audit`"
        return Freeze(n_predictions=0, is_new=None, note=note)
    try:
        is_new = put_frozen(store, made)
    except StoreError as error:
        note = f"the predictions could not be frozen for `rlready audit`: {error.args[0]}"
        return Freeze(n_predictions=n, is_new=None, note=note)
    has_scores = any(row.predicted is not None and not row.had_outcome for row in made.rows)
    what = f"{n} predictions" if has_scores else f"the order of {n} checkpoints and its chances"
    state = f"{'are' if has_scores else 'is'} frozen" if is_new else "were frozen before"
    them = "them" if has_scores else "it"
    note = f"{what} {state}; `rlready audit` judges {them} when outcomes arrive"
    return Freeze(n_predictions=n, is_new=is_new, note=note)


def frozen_prediction(
    applied: AppliedPredictor,
    command: str,
    chosen: Sequence[str],
    *,
    at_ms: int,
    names: Collection[str] | None = None,
) -> FrozenPrediction | None:
    """Return a record of the current predictions; None if every checkpoint has an outcome.

    Args:
        applied: the predictor with the registry's rows.
        command: "rank" or "plan".
        chosen: names of the proposed checkpoints, best first.
        at_ms: now, in milliseconds since 1970.
        names: of the checkpoints that were ranked; by default all.
    """
    table, frame, assessed = applied.data.table, applied.data.frame, applied.assessed
    practice = practice_column(table)
    before = np.full(len(table), np.nan)
    if practice is not None:
        before = table.X[practice].to_numpy(dtype=np.float64)
    ids = frame["checkpoint_id"].astype(str).tolist()
    id_of = dict(zip(applied.names, ids, strict=True))
    rows = tuple(
        FrozenRow(
            checkpoint_id=ids[i],
            name=applied.names[i],
            group=str(table.groups[i]),
            predicted=float(assessed["prediction"].iloc[i]),
            low=float(assessed["low"].iloc[i]),
            high=float(assessed["high"].iloc[i]),
            practice=float(before[i]) if np.isfinite(before[i]) else None,
            had_outcome=bool(applied.has_outcome[i]),
        )
        for i in range(len(table))
        if names is None or applied.names[i] in names
    )
    if not rows:
        return None
    return FrozenPrediction(
        command=command,
        at_ms=at_ms,
        predictor=str(applied.meta.uri),
        target=applied.data.target,
        lower_is_better=table.lower_is_better,
        level=float(applied.predictor.level),
        table_digest=_table_digest(applied.data.table),
        rows=rows,
        chosen=tuple(id_of[name] for name in chosen),
    )


def first_day_prediction(
    day: FirstDay, ranking: PriorRanking, command: str, chosen: Sequence[str], *, at_ms: int
) -> FrozenPrediction | None:
    """Return a record of a ranking by public outcomes; None if every checkpoint has an outcome.

    It holds the standings and the chances of pairs inside groups, and the expected scores of the
    groups with an outcome. Chances are kept for the first `MOST_COMPARED` checkpoints of a group.
    A ranking also prints chances of single checkpoints (P(best), P(top N), P(match)), which are
    kept too.

    Args:
        day: the checkpoints and their order.
        ranking: the ranking of these checkpoints.
        command: "rank" or "plan".
        chosen: names of the proposed checkpoints, best first.
        at_ms: now, in milliseconds since 1970.
    """
    table, practice = day.data.table, practice_column(day.data.table)
    before = np.full(len(table), np.nan)
    if practice is not None:
        before = table.X[practice].to_numpy(dtype=np.float64)
    ids = day.data.frame["checkpoint_id"].astype(str).tolist()
    at = {name: i for i, name in enumerate(day.data.names)}
    is_printed = command == "rank"  # a plan shows no chances of single checkpoints
    rows = tuple(
        FrozenRow(
            checkpoint_id=ids[at[row.id]],
            name=row.id,
            group=row.group,
            predicted=row.predicted,
            low=row.low,
            high=row.high,
            practice=float(before[at[row.id]]) if np.isfinite(before[at[row.id]]) else None,
            had_outcome=row.recorded is not None,
            standing=row.standing,
            **(_printed(row) if is_printed else {}),
        )
        for row in ranking.rows
    )
    if all(row.had_outcome for row in rows):
        return None
    return FrozenPrediction(
        command=command,
        at_ms=at_ms,
        predictor=f"{PUBLIC}/{digest(asdict(shipped_prior()))[:8]}",
        target=ranking.target,
        lower_is_better=table.lower_is_better,
        level=ranking.level,
        table_digest=_table_digest(table),
        rows=rows,
        chosen=tuple(ids[at[name]] for name in chosen),
        chances=_chances(day, rows, [at[row.id] for row in ranking.rows]),
        top_n=ranking.top_n if is_printed else None,
    )


def _printed(row: PriorRow) -> dict[str, float | None]:
    """Return the chances that the ranking prints for a checkpoint."""
    chances = {"p_best": row.p_best, "p_top": row.p_top, "p_match": row.p_match}
    return {k: None if v is None else round(v, _DIGITS) for k, v in chances.items()}


def _chances(
    day: FirstDay, rows: Sequence[FrozenRow], at: Sequence[int]
) -> tuple[tuple[int, int, float], ...]:
    """Return the chances of the pairs without an outcome; `at` gives the rows of the table."""
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if not row.had_outcome:
            members.setdefault(row.group, []).append(i)
    chances = []
    for group, every in members.items():
        first = every[:MOST_COMPARED]
        better = day.order.chances_better(group, np.array([at[i] for i in first]))
        chances += [
            (i, j, round(float(better[k, m]), _DIGITS))
            for k, i in enumerate(first)
            for m, j in enumerate(first[k + 1 :], start=k + 1)
        ]
    return tuple(chances)


def audit_registry(store: MlflowStore, target: str | None = None) -> AuditReport:
    """Judge the frozen predictions of the registry.

    Args:
        store: the registry.
        target: outcome to judge; may be left out if only one was predicted.

    Raises:
        ConfigError: if nothing was frozen, or the target must be named.
        StoreError: if a frozen prediction was changed after it was made.
    """
    everything = frozen_predictions(store)
    if not everything:
        raise ConfigError(
            "no prediction was frozen yet",
            why="`rlready rank` and `rlready plan` freeze what they predict of checkpoints that "
            "have no outcome",
            fix="Run one of them before RL, and record the outcomes afterwards",
        )
    table = checkpoint_table(store.checkpoints())
    target = _target(everything, table.outcome_keys, target)
    # An order that was frozen before the first outcome is about any score after RL.
    chosen = [frozen for frozen in everything if frozen.target in (target, NO_OUTCOME)]
    outcomes = _outcomes(table.frame, target)
    together = newest_before(chosen, outcomes)
    return AuditReport(
        target=target,
        scores=tuple(audit(frozen, outcomes) for frozen in chosen),
        overall=None if together is None else audit(together, outcomes),
    )


def _target(
    everything: Sequence[FrozenPrediction], outcomes: Sequence[str], target: str | None
) -> str:
    """Return the outcome to judge, by default the only one that was predicted."""
    named = {frozen.target for frozen in everything} - {NO_OUTCOME}
    has_unnamed = any(frozen.target == NO_OUTCOME for frozen in everything)
    known = sorted(named | set(outcomes if has_unnamed else ()))
    if target is None and len(named) != 1 and len(known) > 1:
        raise ConfigError(
            f"predictions of {len(known)} outcomes were frozen",
            fix=f"Name one with --target: {', '.join(known)}",
        )
    if target is None:
        return next(iter([*named, *known]), NO_OUTCOME)
    if target not in known and not (target == NO_OUTCOME and has_unnamed):
        fix = f"Known: {', '.join(known)}" if known else "Record outcomes first: rlready outcome"
        raise ConfigError(f"no prediction of {target} was frozen", fix=fix)
    return target


def _outcomes(frame: pd.DataFrame, target: str) -> Mapping[str, float]:
    if target not in frame:
        return {}
    rows = frame[frame[target].notna()]
    return dict(zip(rows["checkpoint_id"].astype(str), rows[target].astype(float), strict=True))


def _table_digest(table: TrainingTable) -> str:
    """Return the digest of proxies and outcomes; a missing number counts as None."""
    numbers = {str(name): table.X[name].tolist() for name in table.X}
    numbers |= {"outcome": table.y.tolist(), "outcome_se": table.y_error.tolist()}
    plain = {
        name: [None if value != value else value for value in values]
        for name, values in numbers.items()
    }
    return digest({"ids": list(table.ids), "columns": plain})
