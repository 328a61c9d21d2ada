"""Turn a ranking of the registry into readiness tags."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rlready.predictors.decisions.prior_ranking import PriorRow
from rlready.predictors.decisions.readiness import ReadyRule
from rlready.registry.readiness_tag import Readiness, ReadinessTag
from rlready.workflow.predict.first_day import PUBLIC, FirstDay, rank_first_day
from rlready.workflow.predict.rank import rank_registry

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore


def ranked_tags(
    store: MlflowStore,
    reference: str,
    *,
    made_at: datetime,
    rule: ReadyRule | None = None,
) -> tuple[list[ReadinessTag], frozenset[str]]:
    """Return a tag for each checkpoint, the best first, and the ids of those with an outcome.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    ranking, applied = rank_registry(store, reference, rule=rule)
    ids = dict(zip(applied.names, applied.data.table.ids, strict=True))
    promises = dict(zip(applied.names, applied.assessed["promise"], strict=True))
    tags = [
        ReadinessTag(
            checkpoint_id=ids[row.id],
            readiness=row.readiness,
            predicted=row.predicted,
            low=row.low,
            high=row.high,
            level=applied.predictor.level,
            regime=promises[row.id],
            domain=row.domain,
            target=applied.data.target,
            predictor=applied.meta.name,
            predictor_version=str(applied.meta.version),
            rule_digest=ranking.rule.digest,
            reasons=row.reasons,
            made_at=made_at,
        )
        for row in ranking.rows
    ]
    return tags, frozenset(ids[name] for name in applied.outcomes)


def prior_tags(day: FirstDay, *, made_at: datetime) -> tuple[list[ReadinessTag], str]:
    """Return a tag for each checkpoint from public outcomes, and why none of them is READY.

    Raises:
        ConfigError: if there is no order.
    """
    ranking, rule = rank_first_day(day), ReadyRule()
    ids = dict(zip(day.data.names, day.data.table.ids, strict=True))
    why = f"UNDECIDED {ranking.source}: READY requires a predictor of your own (`rlready fit`)"
    tags = [
        ReadinessTag(
            checkpoint_id=ids[row.id],
            readiness=Readiness.UNDECIDED,
            predicted=row.predicted,
            low=row.low,
            high=row.high,
            level=ranking.level,
            regime=f"of one RL run, {ranking.source}: model-based",
            domain="unknown",
            target=ranking.target,
            predictor=PUBLIC,
            predictor_version=str(ranking.n_outcomes),
            rule_digest=rule.digest,
            reasons=(why, _place(row), *row.reasons[1:]),
            made_at=made_at,
        )
        for row in ranking.rows
    ]
    return tags, f"{why}, so no alias is set; {ranking.track_record}"


def _place(row: PriorRow) -> str:
    if row.rank_in_group is None:
        return row.mark
    return f"place {row.rank_in_group} in {row.group}, {row.standing:+.2f} sd from its mean"
