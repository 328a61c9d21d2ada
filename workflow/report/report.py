"""Put a report together from what the registry and a predictor say."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from rlready.predictors.kinds import kind_word
from rlready.workflow.report.curves import curves_section, regret_section
from rlready.workflow.report.evidence import Evidence, facts
from rlready.workflow.report.losses import losses_section
from rlready.workflow.report.outcomes import audit_section, before_after_section, proxies_section
from rlready.workflow.report.parts import Cell, Column, Report, Section, Table
from rlready.workflow.report.ranking import ranking_section
from rlready.workflow.report.study import study_section
from rlready.workflow.report.verdict import missing, remarks, verdict

if TYPE_CHECKING:
    from rlready.workflow.search.report import SearchReport

_DIRECTIONS = {1: "higher is better", -1: "lower is better", 0: "unknown"}
_LIBRARIES = ("rlready", "mlflow", "numpy", "scikit-learn")


def report_of(evidence: Evidence, study: SearchReport | None = None) -> Report:
    """Return the report.

    Args:
        evidence: what the registry and a predictor say.
        study: the recipe search whose response surface is shown.

    Example:
        >>> report_of(gather(MlflowStore(), "grpo-predictor", 3)).verdict  # doctest: +SKIP
        'Train a and b: expected to lose 0.4 points against the best of 12 candidates; ...'
    """
    sentence, n = verdict(evidence), len(evidence.data.table)
    basis = "public outcomes" if evidence.applied is None else str(evidence.applied.meta.uri)
    chosen = {name: evidence.reasons.get(name, ()) for name in evidence.chosen}
    gaps = missing(evidence)
    return Report(
        title="Which checkpoint gets the next RL runs?",
        subtitle=f"{evidence.data.target}; {n} checkpoints, {evidence.n_outcomes} outcomes; by "
        f"{basis}; {evidence.made_at:%Y-%m-%d %H:%M} UTC",
        verdict=sentence,
        chosen=chosen,
        remarks=remarks(evidence),
        missing=gaps,
        sections=[
            ranking_section(evidence),
            before_after_section(evidence),
            curves_section(evidence),
            *filter(None, [losses_section(evidence)]),
            proxies_section(evidence),
            regret_section(evidence),
            *([] if study is None else [study_section(study, with_verdict=True)]),
            audit_section(evidence),
            _data_section(evidence),
        ],
        facts={"verdict": sentence, "missing": gaps, **facts(evidence)},
    )


def _data_section(evidence: Evidence) -> Section:
    data, applied = evidence.data, evidence.applied
    values = {
        "registry": evidence.place,
        "target": data.target,
        "checkpoints": f"{len(data.table)}, of them {evidence.n_outcomes} with an outcome",
        "groups": ", ".join(data.groups) or "one",
        "predictor": "none: public outcomes" if applied is None else str(applied.meta.uri),
    }
    if applied is not None:
        meta = applied.meta
        values["fitted on"] = f"{meta.n_rows} checkpoints, table {meta.table_digest}"
        values |= {f"fit: {key}": str(value) for key, value in meta.params.items()}
        libraries = (f"{name} {number}" for name, number in meta.libraries.items())
        values["fitted with"] = ", ".join(libraries)
        values["signal"] = applied.predictor.signal_.in_words().removeprefix("signal: ")
    present = [f"Python {platform.python_version()}"]
    values["this page"] = ", ".join([*(f"{name} {version(name)}" for name in _LIBRARIES), *present])
    about = Table(
        id="data-table",
        caption="What the page rests on.",
        columns=[
            Column(title="what", key="what", is_number=False),
            Column(title="value", key="value", is_number=False),
        ],
        rows=[[Cell(value=name), Cell(value=value)] for name, value in values.items()],
    )
    return Section(
        id="data",
        title="Data, versions and protocol",
        tables=[about, _proxies(evidence)],
        notes=list(dict.fromkeys(data.notes)),
    )


def _proxies(evidence: Evidence) -> Table:
    data = evidence.data
    rows = []
    for column in data.table.columns:
        measured = int(data.table.X[column.name].notna().sum())
        rows.append(
            [
                Cell(value=column.name),
                Cell(value=kind_word(column.kind, column.sign)),
                Cell(value=_DIRECTIONS[column.sign]),
                Cell(value=measured),
                Cell(value=data.versions.get(column.name, "")),
            ]
        )
    return Table(
        id="proxies-used",
        caption="Proxies that the ranking uses, and how they were measured: the digests of content "
        "and protocol, and the version of the evaluator.",
        columns=[
            Column(title="proxy", key="proxy", is_number=False),
            Column(title="kind", key="kind", is_number=False),
            Column(title="direction", key="direction", is_number=False),
            Column(title="checkpoints", key="n"),
            Column(title="measured as", key="measured_as", is_number=False),
        ],
        rows=rows,
    )
