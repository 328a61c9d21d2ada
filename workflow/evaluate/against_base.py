"""Proxies that compare a checkpoint with its base model: weights, coverage, off-policyness.

The base model is evaluated first, as a checkpoint of its own, on the same benchmarks with the same
protocol. Every checkpoint that was made from it reuses its files in `--samples-dir`:

    samples/<checkpoint>/weights-<base>.json   changes of each tensor
    samples/<base>/token-nll-<tokens>.npz      the base model's losses on the checkpoint's tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlready.evaluators.checked_files import read_back, with_digest, without_digest
from rlready.evaluators.checkpoints.folder import pick_device
from rlready.evaluators.heldout.loss_files import replace_text
from rlready.evaluators.metrics import coverage, weight_drift
from rlready.evaluators.metrics.adapter_drift import adapter_change
from rlready.evaluators.metrics.off_policy import off_policy_proxies
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.registry.digest import digest
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Proxy
from rlready.workflow.evaluate.engines import LocalModel
from rlready.workflow.evaluate.inputs import EvaluationInputs
from rlready.workflow.progress import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rlready.evaluators.heldout.tokens import TokenizedSet


class _Compared(NamedTuple):
    """Counts of the checkpoint and its base model on the same problems."""

    name: str
    digest: str
    protocol_digest: str
    counts: Sequence[ProblemCounts]
    base_counts: Sequence[ProblemCounts]


class BaseComparison:
    """The proxies of one checkpoint that need its base model.

    Args:
        inputs: inputs of the checkpoint's evaluation, with its base model.
        base_counts: the base model's counts on each benchmark, by the benchmark's name.
        base_model: the base model's weights.
        warn: called with a note on each undefined number and damaged file.
    """

    def __init__(
        self,
        inputs: EvaluationInputs,
        base_counts: Mapping[str, Sequence[ProblemCounts]],
        base_model: LocalModel,
        warn: Callable[[str], None],
    ) -> None:
        assert inputs.base is not None
        self._inputs, self._base = inputs, inputs.base.checkpoint
        self._base_counts, self._base_model = base_counts, base_model
        self._warn = warn

    def coverage_proxies(self, counts: Mapping[str, Sequence[ProblemCounts]]) -> list[Proxy]:
        """Return the coverage ratio on each benchmark, and over all problems of the suite.

        Args:
            counts: the checkpoint's counts on each benchmark, by the benchmark's name.
        """
        compared = [
            _Compared(
                benchmark.name,
                benchmark.digest,
                self._inputs.protocol_of(benchmark).digest,
                counts[benchmark.name],
                self._base_counts[benchmark.name],
            )
            for benchmark in self._inputs.benchmarks
        ]
        if len(compared) > 1:
            compared.append(_whole_suite(self._inputs.suite_name, compared))
        proxies = []
        for each in compared:
            try:
                estimate = coverage.coverage_ratio(each.counts, each.base_counts)
            except EvaluationError as error:
                self._warn(f"left out on {each.name}: {error}")
                continue
            n_problems = len(each.counts)
            n_compared = len(coverage.comparable(each.counts, each.base_counts))
            if n_compared < n_problems:
                self._warn(
                    f"{each.name}: {n_problems - n_compared} of {n_problems} problems have too "
                    "few scored samples and are left out of the coverage ratio"
                )
            proxies.append(
                Proxy(
                    name=f"coverage_ratio_{coverage.COVERAGE_AT}",
                    value=estimate.value,
                    se=estimate.se,
                    unit="ratio",
                    benchmark=each.name,
                    benchmark_digest=digest([each.digest, self._base.fingerprint]),
                    protocol_digest=each.protocol_digest,
                    n_problems=n_compared,
                    n_samples=sum(count.n for count in each.counts),
                    evaluator_version=coverage.EVALUATOR_VERSION,
                )
            )
        return proxies

    def off_policy_proxies(
        self,
        tokens: TokenizedSet,
        token_nlls: Sequence[NDArray[np.float32]],
        precision: str | None,
    ) -> list[Proxy]:
        """Return quantiles of the log ratio on one held-out set.

        Args:
            tokens: the set as tokens of the checkpoint.
            token_nlls: the checkpoint's losses on the scored tokens, nats.
            precision: `Precision.digest` of the checkpoint's losses.
        """
        folder = self._inputs.config.samples_dir / self._base.id
        base_nlls = self._base_model.scored_tokens(folder, tokens, self._warn)
        key = digest([tokens.benchmark_digest, self._base.fingerprint])
        return off_policy_proxies(token_nlls, base_nlls, tokens.name, key, precision)


def weight_proxies(
    inputs: EvaluationInputs, clock: Clock, warn: Callable[[str], None]
) -> list[Proxy]:
    """Return update norms and rotations, from disk if an earlier call wrote them.

    Args:
        inputs: inputs of the checkpoint's evaluation; its base model is known.
        clock: shows and times the stage.
        warn: called with a note on a damaged file.
    """
    config, weights, record = inputs.config, inputs.weights, inputs.base_record
    base = weights.base if inputs.base is None else inputs.base.weights
    assert record is not None
    assert base is not None
    path = config.samples_dir / inputs.checkpoint.id / f"weights-{record.id}.json"
    change = read_back(path, _read_change, warn)
    if change is None:
        ignored = weights.extra + base.extra
        total = weight_drift.n_tensors(weights.path, ignored)
        with clock.stage("weights", f"Weights against {record.name}", total, "tensors") as advance:
            device, arguments = pick_device(config.device), (advance.to, ignored)
            if weights.adapter is not None:
                change = adapter_change(weights.adapter, base.path, device, *arguments)
            else:
                change = weight_drift.weight_change(weights.path, base.path, device, *arguments)
        values = {"version": weight_drift.EVALUATOR_VERSION, **dataclasses.asdict(change)}
        replace_text(path, with_digest(values))
    return weight_drift.weight_proxies(change, record.name, record.fingerprint)


def _whole_suite(name: str, compared: Sequence[_Compared]) -> _Compared:
    """Return the counts of all benchmarks as those of one, with unique problem ids."""
    protocols = {each.protocol_digest for each in compared}
    return _Compared(
        name,
        digest(sorted(each.digest for each in compared)),
        protocols.pop() if len(protocols) == 1 else digest(sorted(protocols)),
        [count for each in compared for count in _renamed(each.name, each.counts)],
        [count for each in compared for count in _renamed(each.name, each.base_counts)],
    )


def _renamed(benchmark: str, counts: Sequence[ProblemCounts]) -> list[ProblemCounts]:
    return [dataclasses.replace(c, problem_id=f"{benchmark}/{c.problem_id}") for c in counts]


def _read_change(path: Path) -> weight_drift.WeightChange | None:
    """Return the change in a file; None if another version wrote it."""
    values = without_digest(path.read_text(encoding="utf-8"))
    if values["version"] != weight_drift.EVALUATOR_VERSION:
        return None
    layers = tuple(weight_drift.LayerChange(**layer) for layer in values["layers"])
    return weight_drift.WeightChange(layers=layers)
