"""Turn a ranking of the registry into readiness tags."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rlready.predictors.decisions.readiness import ReadyRule
from rlready.registry.readiness_tag import ReadinessTag
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
