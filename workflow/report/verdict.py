"""The verdict of a report: one sentence that a lead can act on, and what tempers it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlready.predictors.decisions.ranking import Ranking
from rlready.predictors.decisions.rl_plan import RlPlan
from rlready.workflow.report.evidence import Evidence

_MOST_NAMED = 2
_FEWEST_TO_FIT = 5


def verdict(evidence: Evidence) -> str:
    """Return the sentence.

    Example:
        >>> verdict(evidence)  # doctest: +SKIP
        'Train a and b: expected to lose 0.4 points against the best of 12 candidates; ...'
    """
    if evidence.plan is None:
        return _without_plan(evidence)
    if evidence.plan.is_retrospective:
        return _in_hindsight(evidence)
    plan = evidence.plan.plan
    n = len(plan.chosen)
    rest = "" if plan.incumbent is None else " and the best so far"
    parts = [
        f"expected to lose {evidence.amount(_regret(plan, plan.policy, n))} against the best of "
        f"{_count(evidence.n_candidates, 'candidate')}{rest}",
        *_practice(evidence, plan, n),
        _judged(evidence),
        _apart(evidence),
    ]
    return f"Train {_listed(plan.chosen)}: {'; '.join(parts)}."


def remarks(evidence: Evidence) -> list[str]:
    """Return what a reader of the verdict has to know beside it."""
    texts: list[str] = []
    plan = evidence.plan
    if plan is not None and not plan.is_retrospective and plan.practice in plan.plan.policies:
        n = len(plan.plan.chosen)
        ours, theirs = (_regret(plan.plan, p, n) for p in (plan.plan.policy, plan.practice))
        if theirs <= ours:
            texts.append(
                f"Choosing by {evidence.practice_words} is expected to do no worse than this plan."
            )
    if plan is not None and plan.replay is not None:
        names = plan.replay.compared(plan.plan.policy, plan.practice)
        n = min(evidence.n_runs, len(plan.replay.policies[names[0]]))
        words = {plan.plan.policy: "such a plan", plan.practice: evidence.practice_words}
        lost = [
            f"{words.get(name, 'random choice')} lost "
            f"{(evidence.number if k else evidence.amount)(plan.replay.at(name, n).realised)}"
            for k, name in enumerate(names)
        ]
        runs = _count(n, "RL run")
        texts.append(
            f"Known: on {plan.replay.n_rows} recorded outcomes that the models had not seen, with "
            f"{runs}, {', '.join(lost)}."
        )
    if isinstance(evidence.ranking, Ranking):
        out = [row.id for row in evidence.ranking.rows if row.domain == "out"]
        if out and evidence.ranking.is_claimed:
            texts.append(
                f"{_count(len(out), 'checkpoint')} out of the predictor's domain: no rank is "
                f"given to {_shortened(out)}."
            )
    else:
        if evidence.n_outcomes == 0:
            texts.append("Standard deviations are those of the scores after RL inside a group.")
        texts += [f"How often such advice was right: {evidence.ranking.track_record}."]
    return texts


def missing(evidence: Evidence) -> list[str]:
    """Return what the page cannot show yet, and what to do about it."""
    n, texts = evidence.n_outcomes, list[str]()
    if n == 0:
        texts.append(
            "No outcome is recorded: the order rests on public RL runs alone. Run RL from the "
            "checkpoints above and record the scores: rlready outcome CHECKPOINT --value V ..."
        )
    if evidence.applied is None:
        texts.append(
            f"No predictor is fitted, because it needs {_FEWEST_TO_FIT} outcomes and {n} "
            f"{'is' if n == 1 else 'are'} recorded."
            if n < _FEWEST_TO_FIT
            else f"No predictor is fitted. {n} outcomes are enough: rlready fit"
        )
    if evidence.plan is not None and evidence.plan.replay is None:
        texts.append(
            "No plan was checked on recorded outcomes: this needs a predictor and 8 outcomes."
        )
    if evidence.audit is None:
        texts.append(
            "No prediction was frozen: run `rlready rank` or `rlready plan` before the next RL "
            "runs, so that they can be judged afterwards."
        )
    if evidence.practice is None:
        texts.append("pass@1 is not among the proxies, so the usual practice cannot be compared.")
    return texts


def _without_plan(evidence: Evidence) -> str:
    table = evidence.data.table
    if np.isfinite(table.y).all():
        best = evidence.data.names[int(np.argmax(table.y))]
        value = float(table.shown(table.y).max())
        return (
            f"Nothing is left to train: all {len(table)} checkpoints have an outcome, the best is "
            f"{best} with {value:.4g}."
        )
    return f"No checkpoint can be recommended: {evidence.no_plan}."


def _in_hindsight(evidence: Evidence) -> str:
    plan, table = evidence.plan, evidence.data.table
    assert plan is not None
    best = int(np.argmax(table.y))
    value = float(table.shown(table.y[[best]])[0])
    n = len(plan.plan.chosen)
    parts = [
        f"Nothing is left to train: all {len(table)} checkpoints have an outcome, and "
        f"{evidence.data.names[best]} is the best with {value:.4g}"
    ]
    if plan.realised_regret is not None:
        parts.append(
            f"a plan for {_count(n, 'RL run')}, made as if none had an outcome, would have lost "
            f"{evidence.amount(plan.realised_regret)}"
        )
    if plan.practice_regret is not None:
        parts.append(f"{evidence.practice_words} {evidence.amount(plan.practice_regret)}")
    return "; ".join(parts) + "."


def _practice(evidence: Evidence, plan: RlPlan, n: int) -> list[str]:
    practice = None if evidence.plan is None else evidence.plan.practice
    if practice not in plan.policies:
        return []
    lost = evidence.number(_regret(plan, practice, n))
    return [f"choosing by {evidence.practice_words} would lose {lost}"]


def _judged(evidence: Evidence) -> str:
    plan = evidence.plan
    if plan is not None and plan.replay is not None:
        return f"judged on {plan.replay.n_rows} left-out outcomes"
    n = evidence.n_outcomes
    if evidence.applied is None:
        own = "none of your own" if n == 0 else f"{n} of your own"
        return f"this rests on public outcomes and {own}, and is not judged on left-out outcomes"
    return f"not judged, as {_count(n, 'outcome')} are too few to leave some out"


def _apart(evidence: Evidence) -> str:
    if not evidence.rivals:
        return "no other candidate is likely to be better"
    return f"cannot tell them apart from {_shortened(evidence.rivals)}"


def _regret(plan: RlPlan, policy: str | None, n: int) -> float:
    values = plan.policies[policy or ""]
    return values[min(n, len(values)) - 1].regret


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _shortened(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMED + 1:
        return _listed(names)
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
