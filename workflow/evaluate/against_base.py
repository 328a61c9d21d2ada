"""Proxies that compare a checkpoint with its base model: weights, coverage, off-policyness.

The base model is evaluated first, as a checkpoint of its own, on the same benchmarks with the same
protocol. Its files in `--samples-dir` serve every checkpoint that was made from it:

    samples/<checkpoint>/weights-<base>.json   changes of each tensor
    samples/<base>/token-nll-<tokens>.npz      base model's losses on the checkpoint's tokens
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.evaluators.checked_files import read_back, with_digest, without_digest
from rlready.evaluators.checkpoints.folder import Weights, load_tokenizer, pick_device
from rlready.evaluators.heldout.loss_files import replace_text
from rlready.evaluators.metrics import coverage
from rlready.evaluators.metrics import weight_drift as weights
from rlready.evaluators.metrics.off_policy import off_policy_proxies
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.registry.digest import digest
from rlready.registry.errors import CheckpointError, EvaluationError
from rlready.registry.records import Checkpoint, Proxy
from rlready.workflow.evaluate.engines import LocalModel
from rlready.workflow.evaluate.token_losses import scored_tokens
from rlready.workflow.progress import Clock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rlready.evaluators.heldout.tokens import TokenizedSet

Counts = Mapping[str, Sequence[ProblemCounts]]
"""Counts of each benchmark, by its name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkCounts:
    """The checkpoint's counts on one benchmark.

    Args:
        name: name of the benchmark.
        digest: digest of its content.
        protocol_digest: digest of the sampling protocol.
        counts: one entry per problem.
    """

    name: str
    digest: str
    protocol_digest: str
    counts: Sequence[ProblemCounts]


_NAMED = 3


def check_base(own_weights: Weights, base_weights: Weights) -> None:
    """Check that two models can be compared tensor by tensor and token by token.

    Raises:
        CheckpointError: if the base model has another architecture, vocabulary or tokenizer.
    """
    checkpoint, base = own_weights.path, base_weights.path
    weights.check_base(checkpoint, base, own_weights.extra + base_weights.extra)
    vocabulary, base_vocabulary = (
        load_tokenizer(folder).get_vocab() for folder in (checkpoint, base)
    )
    different = sorted(t for t, i in vocabulary.items() if base_vocabulary.get(t, i) != i)
    if different:
        raise CheckpointError(
            f"the tokenizers of {checkpoint} and {base} number {len(different)} tokens differently",
            why=f"for example {', '.join(map(repr, different[:_NAMED]))}; the base model would "
            "read the same text as other tokens",
            fix="Name the model that SFT started from, with the same tokenizer",
        )


class BaseComparison:
    """The proxies of one checkpoint that need its base model.

    Args:
        checkpoint: the checkpoint.
        own: its weights.
        base: the base model.
        base_weights: its weights.
        base_counts: its counts on the same benchmarks.
        samples_dir: folder of the samples and losses of both.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: number format for the losses, one of `checkpoints.DTYPES`.
        clock: shows and times the stages.
    """

    def __init__(
        self,
        *,
        checkpoint: Checkpoint,
        own: Weights,
        base: Checkpoint,
        base_weights: Weights,
        base_counts: Counts,
        samples_dir: Path,
        device: str,
        dtype: str,
        clock: Clock,
    ) -> None:
        self._checkpoint, self._own = checkpoint, own
        self._base, self._base_weights, self._base_counts = base, base_weights, base_counts
        self._samples_dir, self._device, self._clock = samples_dir, device, clock
        self._local = LocalModel(base_weights.path, device, clock, dtype)

    def weight_proxies(self, warn: Callable[[str], None]) -> list[Proxy]:
        """Return update norms and rotations, from disk if an earlier call wrote them.

        Args:
            warn: called with a note on a damaged file.
        """
        path = self._samples_dir / self._checkpoint.id / f"weights-{self._base.id}.json"
        change = read_back(path, _read_change, warn)
        if change is None:
            ignored = self._own.extra + self._base_weights.extra
            total = weights.n_tensors(self._own.path, ignored)
            label = f"Weights against {self._base.name}"
            with self._clock.stage("weights", label, total, "tensors") as advance:
                change = weights.weight_change(
                    self._own.path,
                    self._base_weights.path,
                    pick_device(self._device),
                    on_progress=advance.to,
                    ignored=ignored,
                )
            _write_change(path, change)
        return weights.weight_proxies(change, self._base.name, self._base.fingerprint)

    def coverage_proxies(
        self, measured: Sequence[BenchmarkCounts], suite: str, warn: Callable[[str], None]
    ) -> list[Proxy]:
        """Return the coverage ratio on each benchmark, and over all problems of the suite.

        Args:
            measured: the checkpoint's counts on each benchmark.
            suite: name of the suite.
            warn: called with a note on each undefined ratio.
        """
        base = [self._base_counts[each.name] for each in measured]
        pairs = list(zip(measured, base, strict=True))
        if len(measured) > 1:
            pairs.append(_of_suite(measured, base, suite))
        proxies = []
        for own, base_counts in pairs:
            try:
                estimate = coverage.coverage_ratio(own.counts, base_counts)
            except EvaluationError as error:
                warn(f"left out on {own.name}: {error}")
                continue
            n_compared = len(coverage.comparable(own.counts, base_counts))
            if n_compared < len(own.counts):
                warn(
                    f"{own.name}: {len(own.counts) - n_compared} of {len(own.counts)} problems "
                    f"have too few scored samples and are left out of the coverage ratio"
                )
            proxies.append(
                Proxy(
                    name=f"coverage_ratio_{coverage.COVERAGE_AT}",
                    value=estimate.value,
                    se=estimate.se,
                    unit="ratio",
                    benchmark=own.name,
                    benchmark_digest=digest([own.digest, self._base.fingerprint]),
                    protocol_digest=own.protocol_digest,
                    n_problems=n_compared,
                    n_samples=sum(count.n for count in own.counts),
                    evaluator_version=coverage.EVALUATOR_VERSION,
                )
            )
        return proxies

    def off_policy_proxies(
        self,
        tokens: TokenizedSet,
        token_nlls: Sequence[NDArray[np.float32]],
        warn: Callable[[str], None],
    ) -> list[Proxy]:
        """Return quantiles of the log ratio on one held-out set.

        Args:
            tokens: the set as tokens of the checkpoint.
            token_nlls: the checkpoint's losses on the scored tokens, nats.
            warn: called with a note on a damaged file.
        """
        folder = self._samples_dir / self._base.id
        base = scored_tokens(folder, tokens, self._local, self._clock, warn)
        key = digest([tokens.benchmark_digest, self._base.fingerprint])
        precision = self._local.precision
        return off_policy_proxies(token_nlls, base, tokens.name, key, precision.digest)


def _of_suite(
    measured: Sequence[BenchmarkCounts], base: Sequence[Sequence[ProblemCounts]], suite: str
) -> tuple[BenchmarkCounts, list[ProblemCounts]]:
    """Return the counts of all benchmarks as one, for the checkpoint and its base model."""
    own = [count for each in measured for count in _of_benchmark(each.name, each.counts)]
    pairs = zip(measured, base, strict=True)
    base_counts = [count for each, part in pairs for count in _of_benchmark(each.name, part)]
    protocols = {each.protocol_digest for each in measured}
    whole = BenchmarkCounts(
        name=suite,
        digest=digest(sorted(each.digest for each in measured)),
        protocol_digest=protocols.pop() if len(protocols) == 1 else digest(sorted(protocols)),
        counts=own,
    )
    return whole, base_counts


def _of_benchmark(key: str, counts: Sequence[ProblemCounts]) -> list[ProblemCounts]:
    """Return the counts with problem ids that are unique over benchmarks."""
    return [dataclasses.replace(c, problem_id=f"{key}/{c.problem_id}") for c in counts]


def _write_change(path: Path, change: weights.WeightChange) -> None:
    values: dict[str, Any] = {"version": weights.EVALUATOR_VERSION, **dataclasses.asdict(change)}
    replace_text(path, with_digest(values))


def _read_change(path: Path) -> weights.WeightChange | None:
    """Return the change in a file; None if another version wrote it."""
    values = without_digest(path.read_text(encoding="utf-8"))
    if values["version"] != weights.EVALUATOR_VERSION:
        return None
    layers = tuple(weights.LayerChange(**layer) for layer in values["layers"])
    return weights.WeightChange(layers=layers)
