"""From judged samples to `Proxy` records: which numbers a benchmark gives, and their suite mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlready.evaluators.metrics import format_gap, pass_at_k
from rlready.evaluators.metrics import sample_metrics as distribution
from rlready.evaluators.metrics.estimates import Estimate
from rlready.evaluators.metrics.pass_at_k import ProblemCounts, bounds, mean_pass_at_k, too_few
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.registry.digest import digest
from rlready.registry.records import Proxy

_SHARE = "share"
_PROBABILITY = "probability"

_MOSTLY = 0.5
"""Share of samples without an answer, or cut, above which a warning is due."""


@dataclass(frozen=True, kw_only=True)
class SampleProxies:
    """What the samples of one benchmark give.

    Args:
        proxies: the numbers that are defined.
        notes: why one is undefined, or rests on fewer problems than the benchmark has.
        bounds: where there are UNSCORED samples, by name of a pass@k: its `lower` and `upper` bound
            over all problems (every UNSCORED sample wrong, every one right), and how many problems
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
    """The proxies of one benchmark, each over the problems with enough scored samples for it.

    Args:
        benchmark: its name.
        benchmark_digest: of its content.
        protocol_digest: of the protocol that drew the samples.
        problems: its judged samples; at least one problem.
        ks: of pass@k, and of maj@k for those above 1.
    """
    proxies: list[Proxy] = []
    short: dict[int, list[str]] = {}
    for statistic in _statistics(benchmark, ks):
        enough = [problem for problem in problems if _n_scored(problem, statistic) >= statistic.n]
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


@dataclass(frozen=True, kw_only=True)
class _Statistic:
    """A proxy, and how many scored samples it needs of a problem."""

    name: str
    n: int
    of: Callable[[Sequence[ProblemSamples]], Estimate | None]
    unit: str
    version: str = distribution.EVALUATOR_VERSION


def _statistics(benchmark: str, ks: Sequence[int]) -> list[_Statistic]:
    """Every proxy of a benchmark's samples, in the order in which they are shown."""

    def counted(of: Callable[..., Estimate | None], *args: Any) -> Any:
        return lambda problems: of([problem.counts for problem in problems], *args)

    found = [
        _Statistic(
            name=f"pass_at_{k}",
            n=k,
            of=counted(mean_pass_at_k, k, benchmark),
            unit=_PROBABILITY,
            version=pass_at_k.EVALUATOR_VERSION,
        )
        for k in ks
    ]
    for name, of in (("lenient_pass_at_1", _lenient), ("format_gap", format_gap.format_gap)):
        version = format_gap.EVALUATOR_VERSION
        found.append(_Statistic(name=name, n=1, of=of, unit=_PROBABILITY, version=version))
    for k in (k for k in ks if k > 1):
        of = partial(distribution.majority_at_k, k=k)
        found.append(_Statistic(name=f"maj_at_{k}", n=k, of=of, unit=_PROBABILITY))
    for size in distribution.GROUP_SIZES:
        share = counted(distribution.signal_share, size)
        variance = counted(distribution.signal_variance, size)
        name = f"signal_variance_{size}"
        found.append(_Statistic(name=f"signal_share_{size}", n=size, of=share, unit=_PROBABILITY))
        found.append(_Statistic(name=name, n=2, of=variance, unit="probability^2"))
    at = distribution.DISTINCT_AT
    distinct = distribution.distinct_answer_share
    found.append(_Statistic(name=f"distinct_answer_share_{at}", n=at, of=distinct, unit=_SHARE))
    entropy, tokens = distribution.token_entropy, distribution.response_tokens
    found.append(_Statistic(name="token_entropy", n=0, of=entropy, unit="nats/token"))
    found.append(_Statistic(name="response_tokens", n=0, of=tokens, unit="tokens"))
    for kind in distribution.SHARES:
        of = partial(distribution.verdict_share, kind=kind)
        found.append(_Statistic(name=f"{kind}_share", n=0, of=of, unit=_SHARE))
    return found


def _lenient(problems: Sequence[ProblemSamples]) -> Estimate | None:
    counts = [c for problem in problems if (c := problem.lenient_counts) is not None]
    return mean_pass_at_k(counts, 1, "the benchmark") if counts else None


def _n_scored(problem: ProblemSamples, statistic: _Statistic) -> int:
    lenient = problem.lenient_counts
    if lenient is None or statistic.name not in ("lenient_pass_at_1", "format_gap"):
        return problem.counts.n
    return lenient.n if statistic.name == "lenient_pass_at_1" else min(problem.counts.n, lenient.n)


def _short_note(
    benchmark: str, counts: Sequence[ProblemCounts], n: int, names: Sequence[str]
) -> str:
    """What is said where some problems have too few scored samples for some proxies."""
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
    found: dict[str, dict[str, float | int]] = {}
    for name, counts, k in wanted:
        ends = bounds(counts, k)
        if ends is not None and any(problem.n_unscored for problem in counts):
            n_left_out = sum(problem.n < k for problem in counts)
            found[name] = {"lower": ends[0], "upper": ends[1], "n_left_out": n_left_out}
    return found


def mostly_unmeasured(proxies: Sequence[Proxy], max_tokens: int) -> list[str]:
    """Warnings where most samples of a benchmark hold no answer, or were cut before one.

    pass@k is then about the format of the answers or the limit of tokens, not about the skill.

    Args:
        proxies: of one benchmark, as `sample_proxies` gives them.
        max_tokens: the limit at which samples were cut.
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
    """The plain mean over benchmarks of every proxy that all of them have.

    Each benchmark has the same weight, as in Kang et al. 2025 (arXiv 2510.01624). The standard
    errors are those of a mean of independent benchmarks. Where the benchmarks have protocols of
    their own, the mean's protocol is all of them.
    """
    names = list(dict.fromkeys(proxy.name for proxy in proxies))
    benchmarks = {(proxy.benchmark, proxy.benchmark_digest) for proxy in proxies}
    suite_digest = digest(sorted(benchmarks))
    means = []
    for name in names:
        own = [proxy for proxy in proxies if proxy.name == name]
        if len(own) == len(benchmarks):
            means.append(_mean(suite, suite_digest, own))
    return means


def _mean(suite: str, suite_digest: str, own: Sequence[Proxy]) -> Proxy:
    first = own[0]
    return Proxy(
        name=first.name,
        value=math.fsum(proxy.value for proxy in own) / len(own),
        se=_mean_se([proxy.se for proxy in own]),
        se_within=_mean_se([proxy.se_within for proxy in own]),
        unit=first.unit,
        benchmark=suite,
        benchmark_digest=suite_digest,
        protocol_digest=_joint_protocol(own),
        n_problems=sum(proxy.n_problems for proxy in own),
        n_samples=sum(proxy.n_samples for proxy in own),
        evaluator_version=first.evaluator_version,
    )


def _joint_protocol(own: Sequence[Proxy]) -> str | None:
    if len({proxy.protocol_digest for proxy in own}) == 1:
        return own[0].protocol_digest
    return digest(sorted((proxy.benchmark, str(proxy.protocol_digest)) for proxy in own))


def _mean_se(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    return math.sqrt(math.fsum(error**2 for error in known)) / len(known)
