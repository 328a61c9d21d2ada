"""The result of an evaluation: the contract of `rlready evaluate --json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlready.registry.records import Evaluation, Proxy
from rlready.registry.store import StoredEvaluation

Metrics = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Value and standard errors of each proxy, by benchmark and name."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an evaluation.

    Args:
        evaluation: the record with its proxies.
        stored: its ids in the registry.
        verdicts: number of samples by benchmark and verdict.
        n_drawn: samples that this call drew.
        n_found: samples that earlier calls had drawn.
        stages: times and rates of each stage, by its name.
        bounds: bounds of pass@k if samples are UNSCORED, by benchmark and metric, as in
            `SampleProxies.bounds`.
        warnings: notes for people.
    """

    evaluation: Evaluation
    stored: StoredEvaluation
    verdicts: Mapping[str, Mapping[str, int]]
    n_drawn: int
    n_found: int
    stages: Mapping[str, Mapping[str, float | int]]
    bounds: Mapping[str, Mapping[str, Mapping[str, float | int]]] = field(default_factory=dict)
    warnings: Sequence[str] = field(default_factory=tuple)

    @property
    def adapter(self) -> Mapping[str, str]:
        """How an adapter was used, and the URI of its base model; empty for a whole model."""
        values: Mapping[str, str] = self.evaluation.config.get("adapter", {})
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "checkpoint_id": self.evaluation.checkpoint.id,
            "name": self.evaluation.checkpoint.name,
            **({"adapter": dict(self.adapter)} if self.adapter else {}),
            "model_id": self.stored.model_id,
            "run_id": self.stored.run_id,
            "evaluation_id": self.stored.evaluation_id,
            "is_new": self.stored.is_new,
            "metrics": metrics_by_benchmark(self.evaluation.proxies),
            "verdicts": {name: dict(counts) for name, counts in self.verdicts.items()},
            "bounds": {
                benchmark: {name: dict(ends) for name, ends in by_name.items()}
                for benchmark, by_name in self.bounds.items()
            },
            "samples": {"drawn": self.n_drawn, "found": self.n_found},
            "stages": {name: dict(stage) for name, stage in self.stages.items()},
            "warnings": list(self.warnings),
        }


def metrics_by_benchmark(proxies: Sequence[Proxy]) -> Metrics:
    """Return proxies as JSON values; of two with the same name the later one is kept."""
    metrics: dict[str, dict[str, dict[str, Any]]] = {}
    for proxy in proxies:
        within = {} if proxy.se_within is None else {"se_within": proxy.se_within}
        values = {"value": proxy.value, "se": proxy.se, **within}
        metrics.setdefault(proxy.benchmark, {})[proxy.name] = values
    return metrics
