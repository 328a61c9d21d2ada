"""Write docs/metrics.md from the code: `python docs/site/metrics_page.py` (`make metrics`).

Names, units and versions come from the records that the evaluators make of a few invented samples.
Formulas, sources and caveats are the docstrings of their modules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path
from types import ModuleType

import numpy as np

from rlready.evaluators.adaptive import estimate
from rlready.evaluators.heldout import loss
from rlready.evaluators.metrics import (
    coverage,
    off_policy,
    pass_at_k,
    sample_metrics,
    weight_drift,
)
from rlready.evaluators.metrics.proxies import sample_proxies
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.evaluators.verification.verifier import RULES_VERSION
from rlready.predictors import rl_curve
from rlready.registry.records import Proxy, Verdict

Row = tuple[str, str, str]
"""Name, unit and evaluator version of a proxy."""

PAGE = Path(__file__).parents[1] / "metrics.md"
_DIGEST = "0" * 32
_ANY_K = re.compile(r"^(pass|maj)_at_\d+$")
_ARXIV = re.compile(r"arXiv[: ](\d{4}\.\d{5})")
_HEAD = """\
# Metrics

Generated from the code by `make metrics`; do not edit. Every number is stored as a record with its
unit, its standard error, the number of problems and samples, digests of what was measured and how,
and the version of its evaluator. A version rises when a number may move; numbers of two versions
never share a column. `k` stands for the numbers of `--k`.
"""


def page_text() -> str:
    """Return the page."""
    samples, ratio = _of_samples(), f"coverage_ratio_{coverage.COVERAGE_AT}"
    strict = [row for row in samples if row[0].startswith("pass_at_")]
    estimated = [("pass_at_<k>_est", "probability", estimate.EVALUATOR_VERSION)]
    sections = [
        _section("pass@k", pass_at_k, strict),
        _section("Other proxies of samples", sample_metrics, samples[len(strict) :]),
        _section("Generalization loss", loss, _of_losses()),
        _section("pass@k from fewer samples (`--adaptive`)", estimate, estimated),
        _section("Off-policyness (`--base`)", off_policy, _of_off_policy()),
        _section("Coverage (`--base`)", coverage, [(ratio, "ratio", coverage.EVALUATOR_VERSION)]),
        _section("Weight drift (`--base`)", weight_drift, _of_weights()),
        _section("Outcomes: statistics of an RL curve", rl_curve, []),
        _VERDICTS.format(version=f"rlready-rules {RULES_VERSION}"),
    ]
    return "\n".join([_HEAD, *sections])


_VERDICTS = """\
## Verdicts

Verdicts follow the rules of [answers.md](answers.md). Their version is part of the
protocol of every number that is made of samples. It is `{version}`, with the versions of
math-verify, its parsers and sympy.
"""


def _section(title: str, module: ModuleType, rows: Sequence[Row]) -> str:
    table = ["| name | unit | version |", "| --- | --- | --- |"]
    table += [f"| `{name}` | {unit} | {version} |" for name, unit, version in rows]
    lines = cleandoc(module.__doc__ or "").splitlines()
    text = "\n".join(line if line.startswith("    ") else _linked(line) for line in lines)
    code = module.__name__.removeprefix("rlready.").replace(".", "/")
    parts = [f"## {title}", "\n".join(table) if rows else "", text, f"Code: `{code}.py`"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _linked(line: str) -> str:
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", line)


def _rows(records: Sequence[Proxy]) -> list[Row]:
    """Return name, unit and version of the records; those of several k are one row."""
    rows = [
        (_ANY_K.sub(r"\1_at_<k>", record.name), record.unit, record.evaluator_version)
        for record in records
    ]
    return list(dict.fromkeys(rows))


def _of_samples() -> list[Row]:
    right, wrong = Verdict.CORRECT, Verdict.INCORRECT
    problems = [
        ProblemSamples(
            problem_id=str(number),
            verdicts=[right] * (6 + number) + [wrong] * (10 - number),
            answers=["1"] * 16,
            n_tokens=[9] * 16,
            is_truncated=[False] * 16,
            entropy_sums=[0.5] * 16,
            lenient_verdicts=[right] * 16,
        )
        for number in (0, 1)
    ]
    return _rows(sample_proxies("gsm8k", _DIGEST, _DIGEST, problems, (1, 4, 16)).proxies)


def _of_losses() -> list[Row]:
    losses = [loss.ExampleLoss(id=name, nll_sum=1.0, n_tokens=2, n_bytes=3) for name in "ab"]
    return _rows(loss.heldout_proxies(losses, "val", _DIGEST))


def _of_off_policy() -> list[Row]:
    nlls = [np.array([0.5, 1.5], dtype=np.float32), np.array([1.0], dtype=np.float32)]
    return _rows(off_policy.off_policy_proxies(nlls, nlls, "val", _DIGEST))


def _of_weights() -> list[Row]:
    layer = weight_drift.LayerChange(
        name="<module>", module="<module>", squared_change=1.0, squared_base=4.0, rotation=0.1
    )
    change = weight_drift.WeightChange(layers=(layer,))
    rows = _rows(weight_drift.weight_proxies(change, "base", _DIGEST))
    return [row for row in rows if not row[0].endswith("/all")]


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
