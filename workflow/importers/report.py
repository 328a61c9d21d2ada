"""The result of an import as JSON values: the contract of `rlready import --json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.workflow.importers.benchmarks import Imported, StepCounts, measures
from rlready.workflow.importers.storing import ImportReport, step_dict
from rlready.workflow.predict.outcome import outcome_dict


def report_dict(report: ImportReport) -> dict[str, Any]:
    """Return a report as one JSON object."""
    reading = report.reading
    return {
        "tool": reading.tool,
        "files": [{"path": str(path), "form": form} for path, form in reading.files],
        "left_out": [{"path": str(path), "reason": why} for path, why in reading.left_out],
        "benchmarks": [_benchmark_dict(item) for item in report.benchmarks],
        "curves": [curve.to_dict() for curve in reading.curves],
        "correct_above": reading.correct_above,
        "stored": _stored(report),
        "warnings": list(report.warnings),
    }


def pass_at_k(counts: Sequence[ProblemCounts], name: str) -> dict[str, dict[str, Any]]:
    """Return pass@k and signal shares of counts, by name."""
    return {
        key: {
            "value": estimate.value,
            "se": estimate.se,
            "n_problems": n_problems,
            "n_samples": n_samples,
        }
        for key, (estimate, n_problems, n_samples) in measures(counts, name).items()
    }


def _benchmark_dict(item: Imported) -> dict[str, Any]:
    return {
        "series": item.series,
        "benchmark": item.benchmark,
        "is_training": item.is_training,
        "digest": item.digest,
        "same_problems": item.same_problems,
        "settings": dict(item.settings),
        "steps": [_step_dict(step, item.series) for step in item.steps],
    }


def _step_dict(step: StepCounts, name: str) -> dict[str, Any]:
    counts = step.tool or step.checked
    sizes = [problem.n for problem in counts] or [0]
    return {
        **step_dict(step),
        "verdicts": "tool" if step.tool else "rlready",
        "n_problems": len(counts),
        "n_samples": sum(problem.n + problem.n_unscored for problem in counts),
        "n_per_problem": {"min": min(sizes), "max": max(sizes)},
        "n_unscored": sum(problem.n_unscored for problem in counts),
        "n_truncated": step.n_truncated,
        "metrics": pass_at_k(counts, name),
        "rechecked": pass_at_k(step.checked, name) if step.tool else None,
    }


def _stored(report: ImportReport) -> dict[str, Any] | None:
    if report.checkpoint is None:
        return None
    evaluation = report.evaluation
    return {
        "checkpoint_id": report.checkpoint.checkpoint.id,
        "name": report.checkpoint.checkpoint.name,
        "model_id": report.checkpoint.model_id,
        "evaluation": None
        if evaluation is None
        else {
            "evaluation_id": evaluation[0].id,
            "run_id": evaluation[1].run_id,
            "is_new": evaluation[1].is_new,
            "n_proxies": len(evaluation[0].proxies),
        },
        "outcomes": [
            {**outcome_dict(outcome), "run_id": stored.run_id, "is_new": stored.is_new}
            for outcome, stored in report.outcomes
        ],
    }
