"""Rank the registry's checkpoints by a stored predictor and the recorded outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.decisions.ranking import Candidates, Ranking, rank
from rlready.predictors.decisions.readiness import ReadyRule, Recorded
from rlready.predictors.decisions.start_check import (
    Finding,
    check_start,
    conflicts,
    mean_proxies,
    proxies_of,
)
from rlready.workflow.predict.load import AppliedPredictor, load
from rlready.workflow.predict.registry_table import RegistryTable, checked_groups

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore


def rank_registry(
    store: MlflowStore,
    reference: str,
    *,
    groups: Sequence[str] = (),
    top_n: int = 3,
    rule: ReadyRule | None = None,
    own_style: Sequence[str] = (),
) -> tuple[Ranking, AppliedPredictor]:
    """Rank the registry's checkpoints by their expected score after RL.

    Args:
        store: the registry.
        reference: the predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        groups: rank only these groups; by default all.
        top_n: the N of P(top N).
        rule: rule for readiness.
        own_style: held-out sets of the checkpoints' own style; by default from the recipes.

    Raises:
        RlreadyError: for any mistake of the user or the environment.

    Example:
        >>> ranking, _ = rank_registry(MlflowStore(), "grpo-predictor")  # doctest: +SKIP
        >>> [row.id for row in ranking.rows[:3]]  # doctest: +SKIP
    """
    applied = load(store, reference, own_style=own_style)
    return rank_applied(applied, groups=groups, top_n=top_n, rule=rule), applied


def rank_applied(
    applied: AppliedPredictor,
    *,
    groups: Sequence[str] = (),
    top_n: int = 3,
    rule: ReadyRule | None = None,
) -> Ranking:
    """Rank the rows that a predictor was applied to; the arguments are those of `rank_registry`."""
    is_chosen = checked_groups(applied.data.table, groups)
    return rank(
        _candidates(applied, np.flatnonzero(is_chosen)),
        recorded=_recorded(applied),
        rl_noise=applied.predictor.run_noise or None,
        signal_p=None if applied.early else applied.predictor.signal_.p,
        top_n=top_n,
        rule=rule,
        remark=applied.remark,
        is_doubtful=applied.prior_weight == 1.0,
    )


def _candidates(applied: AppliedPredictor, rows: NDArray[np.intp]) -> Candidates:
    """Return some rows with their intervals, domains, contributions and findings."""
    table, predictor = applied.data.table, applied.predictor
    assessed, names = applied.assessed, applied.names
    ends = np.sort([table.shown(assessed[end].to_numpy()) for end in ("low", "high")], axis=0)
    score_ends = applied.posterior.interval(predictor.level)
    parts = predictor.contributions(table.X)
    findings = _findings(applied.data)
    return Candidates(
        ids=[names[i] for i in rows],
        predictive=applied.posterior.rows(rows),
        low=ends[0][rows],
        high=ends[1][rows],
        interval=f"{predictor.level:.0%}",
        domain=assessed["domain"].iloc[rows].tolist(),
        domain_reasons=[[reason] for reason in assessed["reasons"].iloc[rows]],
        contributions={name: values[rows] for name, values in parts.items()},
        findings=[findings[i] for i in rows],
        target=applied.data.target,
        lower_is_better=table.lower_is_better,
        predicted=applied.unseen.mean[rows],
        known=(score_ends[0][rows], score_ends[1][rows]),
    )


def _findings(data: RegistryTable) -> list[tuple[Finding, ...]]:
    """Return what `check_start` finds on each row, on the benchmark of the predictor's proxies."""
    rows = [
        proxies_of({str(name): value for name, value in row.items()})
        for row in data.frame.to_dict("records")
    ]
    sampled = [c.name.partition("@")[2] for c in data.table.columns if c.name.startswith("pass_at")]
    if not sampled:
        return [() for _ in rows]
    mean = mean_proxies(rows)
    findings: list[tuple[Finding, ...]] = []
    for row in rows:
        if not any(name.endswith(f"@{sampled[0]}") for name in row):
            findings.append(())  # the checkpoint was not measured on this benchmark
            continue
        against = conflicts(row, mean, "the mean of all checkpoints", sampled[0])
        findings.append((*check_start(row, sampled[0]), *against))
    return findings


def _recorded(applied: AppliedPredictor) -> list[Recorded]:
    table = applied.data.table
    return [
        Recorded(
            id=applied.names[i],
            group=str(table.groups[i]),
            value=float(table.y[i]),
            se=float(table.y_error[i]) if np.isfinite(table.y_error[i]) else None,
        )
        for i in np.flatnonzero(applied.has_outcome)
    ]
