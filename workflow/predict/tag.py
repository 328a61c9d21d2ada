"""Turn a ranking of the registry into readiness tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rlready.predictors.decisions.prior_ranking import PriorRanking, PriorRow
from rlready.predictors.decisions.ranking import Ranking
from rlready.predictors.decisions.readiness import ReadyRule
from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.pages.checkpoint_pages import put_pages
from rlready.registry.readiness_tag import Readiness, ReadinessTag
from rlready.workflow.predict.first_day import PUBLIC, FirstDay, rank_first_day
from rlready.workflow.predict.load import AppliedPredictor
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
    tags = tags_of_ranking(ranking, applied, made_at=made_at)
    ids = dict(zip(applied.names, applied.data.table.ids, strict=True))
    return tags, frozenset(ids[name] for name in applied.outcomes)


def tags_of_ranking(
    ranking: Ranking, applied: AppliedPredictor, *, made_at: datetime
) -> list[ReadinessTag]:
    """Return a tag for each row of a ranking by a predictor."""
    n = sum(row.rank is not None for row in ranking.rows)
    ids = dict(zip(applied.names, applied.data.table.ids, strict=True))
    promises = dict(zip(applied.names, applied.assessed["promise"], strict=True))
    return [
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
            place=f"rank {row.rank} of {n}" if row.rank else "not ranked",
        )
        for row in ranking.rows
    ]


def prior_tags(day: FirstDay, *, made_at: datetime) -> tuple[list[ReadinessTag], str]:
    """Return a tag for each checkpoint from public outcomes, and why none of them is READY.

    Raises:
        ConfigError: if there is no order.
    """
    ranking = rank_first_day(day)
    tags = tags_of_first_day(ranking, day, made_at=made_at)
    return tags, f"{_why_undecided(ranking)}, so no alias is set; {ranking.track_record}"


def tags_of_first_day(
    ranking: PriorRanking, day: FirstDay, *, made_at: datetime
) -> list[ReadinessTag]:
    """Return a tag for each row of a ranking by public outcomes."""
    rule, why = ReadyRule(), _why_undecided(ranking)
    n_in_group = Counter(row.group for row in ranking.rows)
    ids = dict(zip(day.data.names, day.data.table.ids, strict=True))
    return [
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
            place=_rank(row, n_in_group[row.group]),
        )
        for row in ranking.rows
    ]


def write_pages(
    store: MlflowStore, tags: Sequence[ReadinessTag], aliases: Mapping[str, str] | None = None
) -> str:
    """Write a ranking onto the pages of its checkpoints; return what happened, in words.

    A registry that cannot be written does not undo the ranking: the words then say why.

    Args:
        store: the registry.
        tags: what the ranking says about each checkpoint.
        aliases: see `put_pages`.
    """
    try:
        n = put_pages(store, tags, aliases)
    except StoreError as error:
        return f"the checkpoints' pages in MLflow do not show this ranking: {error.args[0]}"
    if n == 0:
        return "the checkpoints' pages in MLflow already show this ranking"
    pages = "1 page of a checkpoint" if n == 1 else f"{n} pages of checkpoints"
    return f"{pages} in MLflow changed: the verdict comes first there"


def _why_undecided(ranking: PriorRanking) -> str:
    return f"UNDECIDED {ranking.source}: READY requires a predictor of your own (`rlready fit`)"


def _rank(row: PriorRow, n: int) -> str:
    if row.rank_in_group is None:
        return "not ranked"
    where = "" if row.rank is not None else f" in {row.group}"
    return f"rank {row.rank or row.rank_in_group} of {n}{where}"


def _place(row: PriorRow) -> str:
    if row.rank_in_group is None:
        return row.mark
    return f"place {row.rank_in_group} in {row.group}, {row.standing:+.2f} sd from its mean"
