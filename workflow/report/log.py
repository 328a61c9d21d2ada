"""Log a report to MLflow, with its verdict and its figures on the pages there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import RlreadyError, StoreError
from rlready.registry.mlflow_store.predictors.report_page import put_report
from rlready.workflow.predict.figures import draw_regret
from rlready.workflow.report.evidence import Evidence, gather
from rlready.workflow.report.page import page
from rlready.workflow.report.parts import Report
from rlready.workflow.report.report import report_of

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore


def log_report(
    store: MlflowStore, evidence: Evidence, report: Report, text: str
) -> tuple[str | None, str]:
    """Log a report to the run of its predictor's fit.

    Args:
        store: the registry.
        evidence: of the report.
        report: the report.
        text: its page.

    Returns:
        The page's address in MLflow, None if it was not logged; and what happened, in words.

    Example:
        >>> log_report(store, evidence, report, page(report))  # doctest: +SKIP
        ('#/experiments/1/runs/1f/artifactPath/report.html', 'logged to MLflow: #/...')
    """
    if evidence.applied is None:
        return None, "no predictor is fitted, so the page is not logged to MLflow"
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = {}
            if evidence.plan is not None:
                drawn = draw_regret(Path(folder, "regret.png"), evidence.plan, stacked=True)
                figures["What each RL run is worth"] = drawn
            address = put_report(
                store,
                evidence.applied.meta,
                text,
                verdict=report.verdict,
                remarks=report.remarks,
                figures=figures,
            )
    except StoreError as error:
        # The page is there already: a registry that cannot be written does not undo it.
        return None, f"the page could not be logged to MLflow: {error.args[0]}"
    return address, f"logged to MLflow: {address}"


def report_on(store: MlflowStore, reference: str, n_runs: int = 3) -> tuple[str | None, str]:
    """Make a report with a predictor and log it to the run of the predictor's fit.

    A report that cannot be made does not undo the fit: the words then say why.

    Args:
        store: the registry.
        reference: of the predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        n_runs: RL runs that are planned for.

    Returns:
        As `log_report`.

    Example:
        >>> report_on(store, "models:/grpo-predictor/1")  # doctest: +SKIP
        ('#/experiments/1/runs/1f/artifactPath/report.html', 'logged to MLflow: #/...')
    """
    try:
        evidence = gather(store, reference, n_runs)
        report = report_of(evidence)
        return log_report(store, evidence, report, page(report))
    except RlreadyError as error:
        return None, f"no report could be made: {error.args[0]}"


__all__ = ["log_report", "report_on"]
