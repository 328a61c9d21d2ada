"""Everything that a report shows, read from the registry once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.decisions.prior_ranking import PriorRanking
from rlready.predictors.decisions.ranking import Ranking
from rlready.predictors.predictive import Predictive
from rlready.registry.errors import ConfigError
from rlready.registry.redaction import redacted
from rlready.workflow.predict.audit import AuditReport, audit_registry
from rlready.workflow.predict.first_day import (
    FirstDay,
    first_day,
    is_first_day,
    plan_first_day,
    rank_first_day,
)
from rlready.workflow.predict.load import AppliedPredictor, load
from rlready.workflow.predict.plan import PlanReport, candidate_rows, plan_applied
from rlready.workflow.predict.rank import rank_applied
from rlready.workflow.predict.registry_table import RegistryTable, practice_column

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore

_CONFIDENCE = 0.9
_DRAWS = 4000


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What the registry and a predictor say now.

    Args:
        data: the registry's rows.
        n_runs: RL runs that are planned for.
        ranking: from the predictor, or from public outcomes.
        plan: the plan; None if none can be made.
        no_plan: why not; empty if there is one.
        unit: of regrets, in words.
        factor: by which regrets are multiplied to be in this unit.
        rivals: candidates that cannot be told apart from the chosen ones, the likeliest first.
        n_candidates: checkpoints that the plan chose from.
        audit: of frozen predictions; None if nothing was frozen.
        held_out: (n,) prediction without the row's own outcome, NaN if unknown.
        applied: the predictor; None on the first day.
        day: what public outcomes say; None with a predictor.
        place: the registry and the experiment, in words.
        made_at: when it was read.
    """

    data: RegistryTable
    n_runs: int
    ranking: Ranking | PriorRanking
    plan: PlanReport | None
    no_plan: str
    unit: str
    factor: float
    rivals: Sequence[str]
    n_candidates: int
    audit: AuditReport | None
    held_out: NDArray[np.float64]
    applied: AppliedPredictor | None
    day: FirstDay | None
    place: str
    made_at: datetime

    @property
    def practice(self) -> str | None:
        """The proxy that people choose by."""
        return practice_column(self.data.table)

    @property
    def practice_words(self) -> str:
        """The same for people."""
        return shown_proxy(self.practice or "pass_at_1")

    @property
    def in_unit(self) -> str:
        """The unit of regrets, as in "regret in points"."""
        return self.unit if self.unit.startswith("in ") else f"in {self.unit}"

    @property
    def chosen(self) -> tuple[str, ...]:
        """Checkpoints that get the next RL runs."""
        return () if self.plan is None or self.plan.is_retrospective else self.plan.plan.chosen

    @property
    def n_outcomes(self) -> int:
        """Checkpoints with a recorded outcome."""
        return int(np.isfinite(self.data.table.y).sum())

    @property
    def reasons(self) -> Mapping[str, Sequence[str]]:
        """Why each checkpoint stands where it stands."""
        return {row.id: row.reasons for row in self.ranking.rows}

    def number(self, regret: float) -> str:
        """Return a regret in the unit of the report, for example `0.4`."""
        value = regret * self.factor
        if abs(value) >= 1000 or 0 < abs(value) < 0.005:
            return f"{value:.2g}"
        return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"

    def amount(self, regret: float) -> str:
        """Return the same with its unit, for example `0.4 points`."""
        return f"{self.number(regret)} {self.unit}"


def shown_proxy(name: str) -> str:
    """Return the name of a proxy for people: `pass@4 on gsm8k`."""
    proxy, _, where = name.partition("@")
    words = proxy.replace("heldout_nll", "held-out loss").replace("pass_at_", "pass@")
    words = words.replace("_", " ")
    return f"{words} on {where}" if where else words


def gather(
    store: MlflowStore,
    reference: str,
    n_runs: int,
    *,
    target: str | None = None,
    own_style: Sequence[str] = (),
    kinds: Sequence[str] = (),
) -> Evidence:
    """Read what a report shows.

    Args:
        store: the registry.
        reference: of the predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        n_runs: RL runs that are planned for.
        target: outcome, while no predictor is fitted.
        own_style: held-out sets of the checkpoints' own style.
        kinds: kinds of proxies, while no predictor is fitted.

    Raises:
        RlreadyError: if the registry holds nothing that can be ranked.
    """
    if is_first_day(store, reference):
        day = first_day(store, target=target, own_style=own_style, kinds=kinds)
        evidence = _first_day(day, n_runs)
    else:
        evidence = _fitted(load(store, reference, own_style=own_style), n_runs)
    place = f"experiment {store.experiment} in {redacted(store.tracking_uri)}"
    return replace(evidence, audit=_audit(store, evidence.data.target), place=place)


def _fitted(applied: AppliedPredictor, n_runs: int) -> Evidence:
    ranking = rank_applied(applied, top_n=n_runs)
    plan, no_plan, rivals, n_candidates = None, "", list[str](), 0
    try:
        rows, _ = candidate_rows(applied)
        plan = plan_applied(applied, n_runs)
    except ConfigError as error:
        no_plan = error.why or error.what
    else:
        n_candidates = len(rows)
        names = [applied.names[i] for i in rows]
        rivals = rivals_of(applied.unseen.rows(rows), names, plan.plan.chosen)
    factor, unit = _unit(applied.data)
    held_out = dict(zip(applied.predictor.ids_, applied.predictor.out_of_fold_, strict=True))
    return Evidence(
        data=applied.data,
        n_runs=n_runs,
        ranking=ranking,
        plan=plan,
        no_plan=no_plan,
        unit=unit,
        factor=factor,
        rivals=rivals,
        n_candidates=n_candidates,
        audit=None,
        held_out=np.array([held_out.get(name, np.nan) for name in applied.data.table.ids]),
        applied=applied,
        day=None,
        place="",
        made_at=_now(),
    )


def _first_day(day: FirstDay, n_runs: int) -> Evidence:
    table = day.data.table
    ranking = rank_first_day(day, top_n=n_runs)
    plan, no_plan, rivals = None, "", list[str]()
    factor, unit = _unit(day.data)
    if not day.order.n_outcomes:
        factor, unit = 1.0, "standard deviations"
    rows = np.flatnonzero(~np.isfinite(table.y))
    try:
        plan = plan_first_day(day, n_runs).report
    except ConfigError as error:
        no_plan = error.what
    else:
        names = [day.data.names[i] for i in rows]
        rivals = rivals_of(day.order.predictive().rows(rows), names, plan.plan.chosen)
    return Evidence(
        data=day.data,
        n_runs=n_runs,
        ranking=ranking,
        plan=plan,
        no_plan=no_plan,
        unit=unit,
        factor=factor,
        rivals=rivals,
        n_candidates=len(rows),
        audit=None,
        held_out=np.full(len(table), np.nan),
        applied=None,
        day=day,
        place="",
        made_at=_now(),
    )


def rivals_of(predictive: Predictive, names: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Return the other candidates that may well be better than the weakest of the chosen.

    A rival is better in at least 5 % of joint draws: the 90 % interval of the difference between
    both contains 0.

    Args:
        predictive: of the candidates' true scores.
        names: of the candidates.
        chosen: names of the chosen ones.
    """
    is_chosen = np.isin(names, list(chosen))
    if is_chosen.all() or not is_chosen.any():
        return []
    draws = predictive.draw(_DRAWS, np.random.default_rng(0))
    weakest = int(np.flatnonzero(is_chosen)[predictive.mean[is_chosen].argmin()])
    share = (draws > draws[:, [weakest]]).mean(axis=0)
    order = [int(i) for i in np.argsort(-share, kind="stable") if not is_chosen[i]]
    return [names[i] for i in order if share[i] >= (1.0 - _CONFIDENCE) / 2.0]


def _unit(data: RegistryTable) -> tuple[float, str]:
    """Return the factor and the name of the unit of regrets: points where outcomes are shares."""
    y = data.table.y[np.isfinite(data.table.y)]
    is_share = len(y) > 0 and not data.table.lower_is_better and y.min() >= 0 and y.max() <= 1
    return (100.0, "points") if is_share else (1.0, "in the unit of the target")


def _audit(store: MlflowStore, target: str) -> AuditReport | None:
    try:
        return audit_registry(store, target)
    except ConfigError:  # nothing was frozen
        return None


def _now() -> datetime:
    return datetime.fromtimestamp(int(time.time()), UTC)


def facts(evidence: Evidence) -> dict[str, Any]:
    """Return the numbers behind the verdict, for `rlready report --json`."""
    plan = evidence.plan
    regrets = {} if plan is None else plan.plan.policies
    n = min(evidence.n_runs, evidence.n_candidates or evidence.n_runs)
    return {
        "target": evidence.data.target,
        "basis": "public outcomes" if evidence.applied is None else evidence.applied.meta.uri,
        "n_checkpoints": len(evidence.data.table),
        "n_outcomes": evidence.n_outcomes,
        "rl_runs": evidence.n_runs,
        "chosen": list(evidence.chosen),
        "not_told_apart": list(evidence.rivals),
        "unit": evidence.unit,
        "expected_regret": {
            name: values[min(n, len(values)) - 1].regret * evidence.factor
            for name, values in regrets.items()
        },
        "replay": None if plan is None or plan.replay is None else plan.replay.to_dict(),
    }
