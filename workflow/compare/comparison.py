"""Compare registered checkpoints with the first of them, problem by problem.

    registry (names, proxies, recipes) + samples folder (counts, losses, texts) -> Comparison

Only what was measured on the same content by the same protocol is compared. Everything else is
named with the reason, and the rest of the comparison still stands.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from rlready.evaluators.heldout.loss import ExampleLoss
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.records import Proxy, k_of
from rlready.registry.store import Store, StoredCheckpoint
from rlready.workflow.compare.config import CompareConfig
from rlready.workflow.compare.measured import (
    Answers,
    ShownSample,
    answers_behind,
    losses_behind,
    protocol_behind,
    sample_texts,
)
from rlready.workflow.compare.paired import (
    PairedDifference,
    mean_difference,
    paired_loss,
    paired_pass_at_k,
    unpaired,
)

_SOLVED = 0.5
"""A checkpoint solves a problem if more than this share of its samples is correct."""


_MOST_PARTS = 10
"""Benchmarks of which every choice is tried to find those of a mean; of more, only all of them."""

_BRIEF = 60
"""Most characters of a setting in a note."""


@dataclass(frozen=True, kw_only=True)
class FlippedProblem:
    """A problem that one of two checkpoints solves and the other does not.

    Args:
        problem_id: of the problem.
        share_a, share_b: correct samples of each checkpoint, as shares.
        text_a, text_b: a sample of each: correct from the one that solves it, wrong from the other.
    """

    problem_id: str
    share_a: float
    share_b: float
    text_a: ShownSample | None = None
    text_b: ShownSample | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkComparison:
    """One benchmark, the same problems under the same protocol.

    Args:
        benchmark: its name.
        metrics: difference by metric, `pass_at_1` first.
        n_gained, n_lost: problems that only B, or only A, solves; None without the samples.
        gained, lost: the largest of these changes.
    """

    benchmark: str
    metrics: Mapping[str, PairedDifference]
    n_gained: int | None = None
    n_lost: int | None = None
    gained: Sequence[FlippedProblem] = ()
    lost: Sequence[FlippedProblem] = ()


@dataclass(frozen=True, kw_only=True)
class ExampleDifference:
    """Loss of one held-out example under both checkpoints, nats per token."""

    example_id: str
    n_tokens: int
    loss_a: float
    loss_b: float


@dataclass(frozen=True, kw_only=True)
class LossComparison:
    """One held-out set: the difference, and the examples that changed most per token."""

    heldout_set: str
    difference: PairedDifference
    better: Sequence[ExampleDifference] = ()
    worse: Sequence[ExampleDifference] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Checkpoint B against checkpoint A.

    Args:
        a, b: name and id.
        benchmarks: those that are comparable.
        losses: held-out sets that are comparable.
        recipe: (A, B) of each field of the recipe that differs; None where it is not known.
        notes: what is left out or not paired, each with its reason.
    """

    a: Mapping[str, str]
    b: Mapping[str, str]
    benchmarks: Sequence[BenchmarkComparison] = ()
    losses: Sequence[LossComparison] = ()
    recipe: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        values = dataclasses.asdict(self)
        for comparison, row in zip(self.benchmarks, values["benchmarks"], strict=True):
            for name, metric in comparison.metrics.items():
                row["metrics"][name]["is_clear"] = metric.is_clear
        for loss, row in zip(self.losses, values["losses"], strict=True):
            row["difference"]["is_clear"] = loss.difference.is_clear
        return values


def compare(references: Sequence[str], store: Store, config: CompareConfig) -> list[Comparison]:
    """Compare each further checkpoint with the first.

    Args:
        references: two or three checkpoints, as `Store.find` takes them.
        store: the registry.
        config: what is shown.

    Raises:
        ConfigError: for fewer than two checkpoints, more than three, or the same one twice.
        StoreError: if a checkpoint is not registered.

    Example:
        >>> compare(["sft-1", "sft-2"], store, CompareConfig())[0].notes
        []
    """
    if not 2 <= len(references) <= 3:
        raise ConfigError(
            f"compare got {len(references)} checkpoints", fix="Name two or three: A B [C]"
        )
    checkpoints = [store.find(reference) for reference in references]
    ids = [each.checkpoint.id for each in checkpoints]
    if len(set(ids)) < len(ids):
        raise ConfigError(
            "the same checkpoint is named twice",
            why=", ".join(references) + " name the same weights",
            fix="Name different checkpoints; `rlready list` shows them",
        )
    first, *others = checkpoints
    return [_Pair(first, other, config).comparison() for other in others]


class _Pair:
    """The comparison of two checkpoints, in the making."""

    def __init__(self, a: StoredCheckpoint, b: StoredCheckpoint, config: CompareConfig) -> None:
        self._a, self._b, self._config = a, b, config
        self._not_compared: list[str] = []
        self._unpaired: dict[str, list[str]] = {"samples": [], "losses": []}

    def comparison(self) -> Comparison:
        benchmarks = list(self._benchmarks())
        losses = list(self._losses())
        return Comparison(
            a=_name(self._a),
            b=_name(self._b),
            benchmarks=benchmarks,
            losses=losses,
            recipe=_recipe_differences(self._a, self._b),
            notes=[*self._unpaired_notes(), *self._not_compared],
        )

    def _benchmarks(self) -> Iterator[BenchmarkComparison]:
        without: list[Proxy] = []
        compared: dict[tuple[str, str], BenchmarkComparison] = {}
        for proxy_a, proxy_b in self._pairs("pass_at_1"):
            a, b = (
                answers_behind(stored, proxy, self._config.samples_dir)
                for stored, proxy in ((self._a, proxy_a), (self._b, proxy_b))
            )
            if a is None or b is None:
                without.append(proxy_a)
                continue
            made = self._benchmark(proxy_a, a, b)
            compared[proxy_a.benchmark, proxy_a.benchmark_digest] = made
            yield made
        keys = [*compared, *((proxy.benchmark, proxy.benchmark_digest) for proxy in without)]
        for proxy in without:
            parts = _parts_of_mean(proxy, keys)
            missing = [key[0] for key in parts if key not in compared]
            if parts and not missing:
                yield self._mean(proxy, [compared[key] for key in parts])
                continue
            names = ", ".join(missing)
            if missing:
                self._not_compared.append(
                    f"{proxy.benchmark}: not paired, because its parts are not: {names}"
                )
            else:
                self._unpaired["samples"].append(proxy.benchmark)
            yield self._from_registry(proxy)

    def _mean(self, proxy: Proxy, parts: Sequence[BenchmarkComparison]) -> BenchmarkComparison:
        """Return the mean over benchmarks, from the paired differences of each."""
        metrics = {
            name: mean_difference([part.metrics[name] for part in parts], self._config.level)
            for k in self._ks(proxy)
            if all((name := f"pass_at_{k}") in part.metrics for part in parts)
        }
        return BenchmarkComparison(
            benchmark=proxy.benchmark,
            metrics={name: metric for name, metric in metrics.items() if metric is not None},
        )

    def _benchmark(self, proxy: Proxy, a: Answers, b: Answers) -> BenchmarkComparison:
        metrics = {
            f"pass_at_{k}": paired_pass_at_k(a.counts, b.counts, k, self._config.level)
            for k in self._ks(proxy)
        }
        counts_a, counts_b = ({c.problem_id: c for c in each.counts} for each in (a, b))
        flipped = []
        for problem in counts_a.keys() & counts_b.keys():
            if counts_a[problem].n and counts_b[problem].n:
                shares = [c[problem].c / c[problem].n for c in (counts_a, counts_b)]
                if (shares[0] > _SOLVED) != (shares[1] > _SOLVED):
                    flipped.append(
                        FlippedProblem(problem_id=problem, share_a=shares[0], share_b=shares[1])
                    )
        flipped.sort(key=lambda each: (-abs(each.share_b - each.share_a), each.problem_id))
        gained = [each for each in flipped if each.share_b > each.share_a]
        lost = [each for each in flipped if each.share_b < each.share_a]
        n_shown = self._config.problems
        return BenchmarkComparison(
            benchmark=proxy.benchmark,
            metrics={name: metric for name, metric in metrics.items() if metric is not None},
            n_gained=len(gained),
            n_lost=len(lost),
            gained=_with_texts(gained[:n_shown], wrong=a, correct=b, is_a_correct=False),
            lost=_with_texts(lost[:n_shown], wrong=b, correct=a, is_a_correct=True),
        )

    def _from_registry(self, proxy: Proxy) -> BenchmarkComparison:
        of_a, of_b = self._pass_at_k(self._a, proxy), self._pass_at_k(self._b, proxy)
        metrics = {
            f"pass_at_{k}": unpaired(of_a[k], of_b[k], self._config.level) for k in self._ks(proxy)
        }
        return BenchmarkComparison(benchmark=proxy.benchmark, metrics=metrics)

    def _ks(self, proxy: Proxy) -> list[int]:
        """Return every k whose pass@k both have on the content and protocol of this proxy."""
        ks = [self._pass_at_k(stored, proxy).keys() for stored in (self._a, self._b)]
        return sorted(ks[0] & ks[1])

    @staticmethod
    def _pass_at_k(stored: StoredCheckpoint, like: Proxy) -> dict[int, Proxy]:
        key = attrgetter("benchmark", "benchmark_digest", "protocol_digest")
        return {
            k: proxy
            for proxy in stored.proxies
            if (k := k_of(proxy.name)) is not None and key(proxy) == key(like)
        }

    def _losses(self) -> Iterator[LossComparison]:
        for proxy_a, proxy_b in self._pairs("heldout_nll"):
            a, b = (
                losses_behind(stored, proxy, self._config.samples_dir)
                for stored, proxy in ((self._a, proxy_a), (self._b, proxy_b))
            )
            if a is None or b is None:
                self._unpaired["losses"].append(proxy_a.benchmark)
                difference = unpaired(proxy_a, proxy_b, self._config.level)
                yield LossComparison(heldout_set=proxy_a.benchmark, difference=difference)
                continue
            paired = paired_loss(a, b, self._config.level)
            if paired is None:
                self._not_compared.append(
                    f"{proxy_a.benchmark}: the two checkpoints split every example into different "
                    "numbers of tokens"
                )
                continue
            yield self._loss(proxy_a.benchmark, paired, a, b)

    def _loss(
        self,
        name: str,
        difference: PairedDifference,
        a: Sequence[ExampleLoss],
        b: Sequence[ExampleLoss],
    ) -> LossComparison:
        of_b = {example.id: example for example in b}
        rows = [
            ExampleDifference(
                example_id=example.id,
                n_tokens=example.n_tokens,
                loss_a=example.nll_sum / example.n_tokens,
                loss_b=of_b[example.id].nll_sum / example.n_tokens,
            )
            for example in a
            if example.id in of_b and example.n_tokens == of_b[example.id].n_tokens > 0
        ]
        rows.sort(key=lambda row: (row.loss_b - row.loss_a, row.example_id))
        n_shown = self._config.problems
        return LossComparison(
            heldout_set=name,
            difference=difference,
            better=[row for row in rows[:n_shown] if row.loss_b < row.loss_a],
            worse=[row for row in rows[::-1][:n_shown] if row.loss_b > row.loss_a],
        )

    def _pairs(self, name: str) -> Iterator[tuple[Proxy, Proxy]]:
        """Yield the proxies of this name that both have on the same content and protocol."""
        of_a, of_b = (
            {
                (p.benchmark, p.benchmark_digest, p.protocol_digest): p
                for p in stored.proxies
                if p.name == name
            }
            for stored in (self._a, self._b)
        )
        compared = {key[0] for key in of_a.keys() & of_b.keys()}
        for benchmark in sorted({key[0] for key in of_a.keys() | of_b.keys()} - compared):
            self._not_compared.append(_why_not(benchmark, list(of_a), list(of_b), self))
        yield from ((of_a[key], of_b[key]) for key in of_a if key in of_b)

    @property
    def names(self) -> tuple[str, str]:
        """The names of A and B."""
        return self._a.checkpoint.name, self._b.checkpoint.name

    def protocol_difference(self, of_a: Sequence[str | None], of_b: Sequence[str | None]) -> str:
        """Return the settings that differ; empty if the samples that name them are elsewhere."""
        found = [
            protocol_behind(stored, way[1] or "", way[2] or "", self._config.samples_dir)
            for stored, way in ((self._a, of_a), (self._b, of_b))
        ]
        if found[0] is None or found[1] is None:
            return ""
        a, b = (protocol.to_dict() for protocol in found if protocol is not None)
        return ", ".join(
            f"{key} {_brief(a[key])} and {_brief(b[key])}" for key in a if a[key] != b.get(key)
        )

    def _unpaired_notes(self) -> Iterator[str]:
        for kind, names in self._unpaired.items():
            if names:
                yield (
                    f"{', '.join(names)}: not paired, because the {kind} of both are not in "
                    f"{self._config.samples_dir}; give --samples-dir, or evaluate again"
                )


def _parts_of_mean(
    proxy: Proxy, benchmarks: Sequence[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """Return the benchmarks (name, digest) whose mean a proxy is; empty if they are unknown."""
    others = [key for key in sorted(benchmarks) if key[1] != proxy.benchmark_digest]
    sizes = range(len(others), 1, -1) if len(others) <= _MOST_PARTS else [len(others)]
    for size in sizes:
        for parts in itertools.combinations(others, size):
            if digest(list(parts)) == proxy.benchmark_digest:
                return parts
    return ()


def _why_not(benchmark: str, of_a: list[Any], of_b: list[Any], pair: _Pair) -> str:
    a, b = ([key for key in keys if key[0] == benchmark] for keys in (of_a, of_b))
    name_a, name_b = pair.names
    if not a or not b:
        return f"{benchmark}: {name_b if a else name_a} was not measured on it"
    if {key[1] for key in a} & {key[1] for key in b}:
        what = pair.protocol_difference(a[0], b[0]) or f"{a[0][2]} and {b[0][2]}"
        return f"{benchmark}: the same problems under different protocols: {what}"
    return f"{benchmark}: different contents ({a[0][1]} of {name_a}, {b[0][1]} of {name_b})"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF // 2]}...{text[-_BRIEF // 2 :]}"


def _with_texts(
    problems: Sequence[FlippedProblem], *, wrong: Answers, correct: Answers, is_a_correct: bool
) -> list[FlippedProblem]:
    ids = {problem.problem_id for problem in problems}
    right = sample_texts(correct, ids, is_correct=True)
    other = sample_texts(wrong, ids, is_correct=False)
    a, b = (right, other) if is_a_correct else (other, right)
    return [
        dataclasses.replace(
            problem, text_a=a.get(problem.problem_id), text_b=b.get(problem.problem_id)
        )
        for problem in problems
    ]


def _name(stored: StoredCheckpoint) -> dict[str, str]:
    return {"name": stored.checkpoint.name, "id": stored.checkpoint.id}


def _recipe_differences(a: StoredCheckpoint, b: StoredCheckpoint) -> dict[str, tuple[Any, Any]]:
    values_a, values_b = (dict(_facts(stored)) for stored in (a, b))
    return {
        key: (values_a.get(key), values_b.get(key))
        for key in [*values_a, *(key for key in values_b if key not in values_a)]
        if values_a.get(key) != values_b.get(key)
    }


def _facts(stored: StoredCheckpoint) -> Iterator[tuple[str, Any]]:
    checkpoint = stored.checkpoint
    yield "kind", checkpoint.kind
    yield "step", checkpoint.step
    yield "parents", list(checkpoint.parents)
    for key, value in ({} if checkpoint.recipe is None else checkpoint.recipe.to_dict()).items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", each) for inner, each in value.items())
        else:
            yield key, value
