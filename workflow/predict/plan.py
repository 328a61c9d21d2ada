"""Choose the checkpoints of the registry that get the next RL runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlready.predictors.decisions.plan_replay import Replay, replay
from rlready.predictors.decisions.rl_plan import Incumbent, PlanRule, RlPlan, plan
from rlready.predictors.training_table import FloatArray, TrainingTable
from rlready.registry.errors import ConfigError
from rlready.workflow.predict.load import AppliedPredictor
from rlready.workflow.predict.registry_table import practice_column

TARGET_UNIT = "the target's unit"
_MOST_PRIOR_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """A plan, with its regret in hindsight if every outcome is recorded already.

    Args:
        plan: the checkpoints that get the RL runs.
        target: the outcome.
        is_retrospective: whether all candidates have their outcome, and the plan was made as if
            none had.
        realised_regret: best recorded outcome minus the best one of the chosen; None unless
            `is_retrospective`.
        address: address of the predictor.
        practice: the proxy by which people choose; None if it is not among the proxies.
        practice_regret: realised regret of as many checkpoints chosen by `practice`; None as above.
        replay: the regrets of plans on recorded outcomes that were left out; None if there are too
            few outcomes.
        applied: the predictor with the registry's rows; None for a plan from public outcomes.
    """

    plan: RlPlan
    target: str
    is_retrospective: bool
    realised_regret: float | None
    address: str
    practice: str | None
    practice_regret: float | None = None
    replay: Replay | None = None
    applied: AppliedPredictor | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as one JSON object: the contract of `rlready plan --json`."""
        return {
            **self.plan.to_dict(),
            "target": self.target,
            "predictor": self.address,
            "is_retrospective": self.is_retrospective,
            "realised_regret": self.realised_regret,
            "practice": self.practice,
            "practice_regret": self.practice_regret,
            "replay": None if self.replay is None else self.replay.to_dict(),
        }


def plan_applied(
    applied: AppliedPredictor,
    n_runs: int,
    *,
    rl_noise: float | None = None,
    rule: PlanRule | None = None,
) -> PlanReport:
    """Return the checkpoints that get the next RL runs, and the value of each run.

    Candidates are the checkpoints without an outcome. The best checkpoint with a recorded outcome
    needs no further run. If all have an outcome, the plan is made as if none had, from predictions
    by models that have not seen the row, and its realised regret is reported.

    Args:
        applied: the predictor with the registry's rows.
        n_runs: number of RL runs that can be paid.
        rl_noise: standard deviation of one RL run's score; by default from the outcomes' errors.
        rule: policy, draws, seed.

    Raises:
        ConfigError: if a number is invalid, or no plan can be made.

    Example:
        >>> applied = load(MlflowStore(), "grpo-predictor")  # doctest: +SKIP
        >>> plan_applied(applied, 3).plan.chosen  # doctest: +SKIP
        ('sft-7', 'sft-2', 'sft-5')
    """
    table, predictor, names = applied.data.table, applied.predictor, applied.names
    rows, is_retrospective = candidate_rows(applied)
    noise = predictor.run_noise if rl_noise is None else rl_noise
    chosen = plan(
        applied.unseen.rows(rows),
        [names[i] for i in rows],
        n_runs,
        rl_noise=noise,
        incumbent=None if is_retrospective else incumbent(applied, noise),
        scores=_practice_scores(table, rows),
        rule=rule,
    )
    practice = practice_column(table)
    replayed = replay_of(applied, max(map(len, chosen.policies.values())))
    doubt = doubt_about_replay(applied, rows)
    if doubt:
        chosen = replace(chosen, notes=(*chosen.notes, doubt))
    elif replayed is not None:
        chosen = replayed.corrected(chosen)
    n = len(chosen.chosen)
    by_practice = [value.chosen for value in chosen.policies.get(practice or "", ())[:n]]
    return PlanReport(
        plan=replace(chosen, notes=(*chosen.notes, *filter(None, [applied.remark]))),
        target=applied.data.target,
        is_retrospective=is_retrospective,
        realised_regret=_in_hindsight(applied, chosen.chosen) if is_retrospective else None,
        address=str(applied.meta.uri),
        practice=practice,
        practice_regret=_in_hindsight(applied, by_practice) if is_retrospective else None,
        replay=replayed,
        applied=applied,
    )


def candidate_rows(applied: AppliedPredictor) -> tuple[NDArray[np.intp], bool]:
    """Return the rows without an outcome (all rows if each has one), and whether each has one.

    Raises:
        ConfigError: if the proxies have no signal, and public outcomes are not used.
    """
    signal = applied.predictor.signal_
    is_retrospective = bool(applied.has_outcome.all())
    if not signal.found() and (applied.early is None or is_retrospective):
        raise ConfigError(
            "no plan can be made",
            why=signal.in_words(),
            fix="Choose by other means, or record more outcomes and fit again",
        )
    return np.flatnonzero(applied.has_outcome == is_retrospective), is_retrospective


def doubt_about_replay(applied: AppliedPredictor, rows: NDArray[np.intp]) -> str:
    """Return why plans on recorded outcomes say little about the candidates; empty if they do."""
    if applied.prior_weight >= _MOST_PRIOR_WEIGHT:
        return (
            f"public outcomes weigh {applied.prior_weight:.0%} in this plan: plans on recorded "
            "outcomes, which only use the predictor, do not correct its expected regret"
        )
    groups = applied.data.table.groups
    groups_with_outcome = set(groups[applied.has_outcome].tolist())
    n_new = sum(str(group) not in groups_with_outcome for group in groups[rows])
    if 2 * n_new <= len(rows):
        return ""
    return (
        f"{n_new} of {len(rows)} candidates are in groups without an outcome: plans on recorded "
        "outcomes say little about them, and the expected regret is the predictor's alone"
    )


def replay_of(applied: AppliedPredictor, n_max: int) -> Replay | None:
    """Replay plans on the recorded outcomes, from models that have not seen them."""
    table, held_out = applied.data.table, applied.predictor.out_of_fold_
    # A row that is alone in its group has no prediction by a model that has not seen it.
    ids_in_every_fit = {
        name for name, value in zip(applied.predictor.ids_, held_out, strict=True) if value != value
    }
    is_unseen = np.array([name not in ids_in_every_fit for name in table.ids])
    rows = np.flatnonzero(is_unseen & applied.has_outcome)
    if not len(rows):
        return None
    return replay(
        applied.predictor.unseen(table, noise=True).rows(rows),
        table.y[rows],
        n_max,
        scores=_practice_scores(table, rows),
    )


def _in_hindsight(applied: AppliedPredictor, chosen: Sequence[str | None]) -> float | None:
    """Return the best recorded outcome minus the best one of the chosen, higher is better."""
    values = dict(zip(applied.names, applied.data.table.y.tolist(), strict=True))
    tried = [values[name] for name in chosen if name is not None]
    return max(values.values()) - max(tried) if tried else None


def incumbent(applied: AppliedPredictor, noise: float) -> Incumbent | None:
    """Return the best checkpoint with a recorded outcome; None if there is none."""
    rows = np.flatnonzero(applied.has_outcome)
    if not len(rows):
        return None
    posterior = applied.posterior
    best = int(rows[np.argmax(posterior.mean[rows])])
    sd = min(float(posterior.row_sd[best]), noise)
    return Incumbent(id=applied.names[best], value=float(posterior.mean[best]), sd=sd)


def _practice_scores(table: TrainingTable, rows: NDArray[np.intp]) -> dict[str, FloatArray]:
    practice = practice_column(table)
    if practice is None:
        return {}
    values = table.X[practice].to_numpy(dtype=np.float64)[rows]
    if not np.isfinite(values).any():
        return {}
    return {practice: np.where(np.isfinite(values), values, np.nanmin(values))}
