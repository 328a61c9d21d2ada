"""From judged samples to `Proxy` records: the numbers of a benchmark, and their suite mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlready.evaluators.metrics import pass_at_k, sample_metrics
from rlready.evaluators.metrics.estimates import Estimate
from rlready.evaluators.metrics.pass_at_k import ProblemCounts, bounds, mean_pass_at_k, too_few
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.registry.digest import digest
from rlready.registry.records import Proxy

_MOSTLY = 0.5
"""A warning is given above this share of samples without an answer, or cut."""


@dataclass(frozen=True, kw_only=True)
class SampleProxies:
    """The numbers of one benchmark's samples.

    Args:
        proxies: the numbers that are defined.
        notes: the reasons why a number is undefined, or averages fewer problems than there are.
        bounds: for each pass@k if there are UNSCORED samples: its `lower` and `upper` bound over
            all problems (all UNSCORED samples wrong, or all right), and the number of problems that
            its value leaves out (`n_left_out`).
    """

    proxies: list[Proxy]
    notes: list[str]
    bounds: dict[str, dict[str, float | int]]


def sample_proxies(
    benchmark: str,
    benchmark_digest: str,
    protocol_digest: str,
    problems: Sequence[ProblemSamples],
    ks: Sequence[int],
) -> SampleProxies:
    """Return the proxies of one benchmark, each over the problems with enough scored samples.

    Args:
        benchmark: name of the benchmark.
        benchmark_digest: digest of its content.
        protocol_digest: digest of the protocol that drew the samples.
        problems: judged samples of at least one problem.
        ks: the k of pass@k, and of maj@k for those above 1.

    Example:
        >>> result = sample_proxies("math", benchmark.digest, protocol_digest, problems, (1, 8))
        >>> [proxy.name for proxy in result.proxies][:2]
        ['pass_at_1', 'pass_at_8']
    """
    proxies: list[Proxy] = []
    short: dict[int, list[str]] = {}
    for statistic in _statistics(benchmark, ks):
        enough = [problem for problem in problems if statistic.n_scored(problem) >= statistic.n]
        estimate = statistic.of(enough) if enough else None
        if estimate is None:
            continue
        if len(enough) < len(problems):
            short.setdefault(statistic.n, []).append(statistic.name)
        proxies.append(
            Proxy(
                name=statistic.name,
                value=estimate.value,
                se=estimate.se,
                se_within=estimate.se_within,
                unit=statistic.unit,
                benchmark=benchmark,
                benchmark_digest=benchmark_digest,
                protocol_digest=protocol_digest,
                n_problems=len(enough),
                n_samples=sum(len(problem.verdicts) for problem in enough),
                evaluator_version=statistic.version,
            )
        )
    counts = [problem.counts for problem in problems]
    notes = [_short_note(benchmark, counts, n, names) for n, names in short.items()]
    names = {proxy.name for proxy in proxies}
    for k in ks:
        if f"pass_at_{k}" not in names:
            notes.append(f"left out: {too_few(counts, k, benchmark)}")
    return SampleProxies(proxies=proxies, notes=notes, bounds=_bounds(problems, ks))


@dataclass(frozen=True)
class _Statistic:
    """A proxy, with the number of scored samples of a problem that it needs."""

    name: str
    n: int
    unit: str
    of: Callable[[Sequence[ProblemSamples]], Estimate | None]
    version: str = sample_metrics.EVALUATOR_VERSION
    n_scored: Callable[[ProblemSamples], int] = lambda problem: problem.counts.n


def _statistics(benchmark: str, ks: Sequence[int]) -> list[_Statistic]:
    """Return every proxy of a benchmark's samples, in the order in which they are shown."""

    def counted(of: Callable[..., Estimate | None], *args: int | str) -> Any:
        return lambda problems: of([problem.counts for problem in problems], *args)

    at, version = sample_metrics.DISTINCT_AT, pass_at_k.EVALUATOR_VERSION
    distinct = sample_metrics.distinct_answer_share
    majority, share = sample_metrics.majority_at_k, sample_metrics.verdict_share
    statistics = [
        _Statistic(f"pass_at_{k}", k, "probability", counted(mean_pass_at_k, k, benchmark), version)
        for k in ks
    ]
    version = sample_metrics.FORMAT_GAP_VERSION
    statistics += [
        _Statistic("lenient_pass_at_1", 1, "probability", _lenient, version, _n_lenient),
        _Statistic(
            "format_gap",
            1,
            "probability",
            sample_metrics.format_gap,
            version,
            lambda problem: min(problem.counts.n, _n_lenient(problem)),
        ),
    ]
    statistics += [
        _Statistic(f"maj_at_{k}", k, "probability", partial(majority, k=k)) for k in ks if k > 1
    ]
    for g in sample_metrics.GROUP_SIZES:
        signal = counted(sample_metrics.signal_share, g)
        variance = counted(sample_metrics.signal_variance, g)
        statistics.append(_Statistic(f"signal_share_{g}", g, "probability", signal))
        statistics.append(_Statistic(f"signal_variance_{g}", 2, "probability^2", variance))
    return [
        *statistics,
        _Statistic(f"distinct_answer_share_{at}", at, "share", distinct),
        _Statistic("token_entropy", 0, "nats/token", sample_metrics.token_entropy),
        _Statistic("response_tokens", 0, "tokens", sample_metrics.response_tokens),
        *(
            _Statistic(f"{kind}_share", 0, "share", partial(share, kind=kind))
            for kind in sample_metrics.SHARES
        ),
    ]


def _lenient(problems: Sequence[ProblemSamples]) -> Estimate | None:
    counts = [c for problem in problems if (c := problem.lenient_counts) is not None]
    return mean_pass_at_k(counts, 1, "the benchmark") if counts else None


def _n_lenient(problem: ProblemSamples) -> int:
    return (problem.lenient_counts or problem.counts).n


def _short_note(
    benchmark: str, counts: Sequence[ProblemCounts], n: int, names: Sequence[str]
) -> str:
    """Return the note that some problems have too few scored samples for some proxies."""
    short = [problem for problem in counts if problem.n < n]
    n_unscored = sum(problem.n_unscored for problem in short)
    return (
        f"{benchmark}: {len(short)} of {len(counts)} problems have fewer than {n} scored samples "
        f"({n_unscored} of their samples are UNSCORED) and are left out of {', '.join(names)}"
    )


def _bounds(
    problems: Sequence[ProblemSamples], ks: Sequence[int]
) -> dict[str, dict[str, float | int]]:
    strict = [problem.counts for problem in problems]
    lenient = [c for problem in problems if (c := problem.lenient_counts) is not None]
    wanted = [(f"pass_at_{k}", strict, k) for k in ks] + [("lenient_pass_at_1", lenient, 1)]
    all_bounds: dict[str, dict[str, float | int]] = {}
    for name, counts, k in wanted:
        ends = bounds(counts, k)
        if ends is not None and any(problem.n_unscored for problem in counts):
            n_left_out = sum(problem.n < k for problem in counts)
            all_bounds[name] = {"lower": ends[0], "upper": ends[1], "n_left_out": n_left_out}
    return all_bounds


def mostly_unmeasured(proxies: Sequence[Proxy], max_tokens: int) -> list[str]:
    """Return warnings if most samples of a benchmark have no answer, or were cut before it.

    pass@k is then about the format of the answers or the limit of tokens, not about the skill.

    Args:
        proxies: proxies of one benchmark, from `sample_proxies`.
        max_tokens: limit at which samples were cut.
    """
    shares = {proxy.name: proxy for proxy in proxies}
    texts = {
        "unparsed_share": "hold no answer that could be read, and count as wrong: pass@k tells "
        "more about the format of the answers than about the skill. Read some of the samples, and "
        "check the prompt template and the chat template",
        "truncated_share": f"were cut at --max-tokens {max_tokens} before they ended: raise it, or "
        "read some of the samples for endless repetition",
    }
    return [
        f"{shares[name].benchmark}: {shares[name].value:.0%} of the samples {text}"
        for name, text in texts.items()
        if name in shares and shares[name].value > _MOSTLY
    ]


def macro_mean(suite: str, proxies: Sequence[Proxy]) -> list[Proxy]:
    """Return the plain mean over benchmarks of every proxy that all of them have.

    Each benchmark has the same weight, as in Kang et al. 2025 (arXiv 2510.01624). The standard
    errors are those of a mean of independent benchmarks. If the benchmarks have different
    protocols, the protocol digest of the mean covers all of them.
    """
    benchmarks = {(proxy.benchmark, proxy.benchmark_digest) for proxy in proxies}
    suite_digest = digest(sorted(benchmarks))
    means = []
    for name in dict.fromkeys(proxy.name for proxy in proxies):
        parts = [proxy for proxy in proxies if proxy.name == name]
        if len(parts) < len(benchmarks):
            continue
        protocol_digest = parts[0].protocol_digest
        if len({proxy.protocol_digest for proxy in parts}) > 1:
            by_benchmark = sorted((proxy.benchmark, str(proxy.protocol_digest)) for proxy in parts)
            protocol_digest = digest(by_benchmark)
        mean = dataclasses.replace(
            parts[0],
            value=math.fsum(proxy.value for proxy in parts) / len(parts),
            se=_mean_se([proxy.se for proxy in parts]),
            se_within=_mean_se([proxy.se_within for proxy in parts]),
            benchmark=suite,
            benchmark_digest=suite_digest,
            protocol_digest=protocol_digest,
            n_problems=sum(proxy.n_problems for proxy in parts),
            n_samples=sum(proxy.n_samples for proxy in parts),
        )
        means.append(mean)
    return means


def _mean_se(errors: Sequence[float | None]) -> float | None:
    squares = [error**2 for error in errors if error is not None]
    return math.sqrt(math.fsum(squares)) / len(squares) if len(squares) == len(errors) else None
