"""From judged samples to `Proxy` records: which numbers a benchmark gives, and their suite mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlready.evaluators import distribution, pass_at_k
from rlready.evaluators.distribution import ProblemSamples
from rlready.evaluators.estimates import Estimate
from rlready.evaluators.pass_at_k import mean_pass_at_k
from rlready.registry.digest import digest
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Proxy

_SHARE = "share"
_PROBABILITY = "probability"

_MOSTLY = 0.5
"""Share of samples without an answer, or cut, above which a warning is due."""


def sample_proxies(
    benchmark: str,
    benchmark_digest: str,
    protocol_digest: str,
    problems: Sequence[ProblemSamples],
    ks: Sequence[int],
) -> tuple[list[Proxy], list[EvaluationError]]:
    """The proxies of one benchmark, and why some of them are undefined.

    Args:
        benchmark: its name.
        benchmark_digest: of its content.
        protocol_digest: of the protocol that drew the samples.
        problems: its judged samples; at least one problem.
        ks: of pass@k, and of maj@k for those above 1.
    """
    counts = [problem.counts for problem in problems]
    version = distribution.EVALUATOR_VERSION
    found: list[tuple[str, Estimate | None, str, str]] = []
    undefined: list[EvaluationError] = []
    for k in ks:
        try:
            estimate = mean_pass_at_k(counts, k, benchmark)
        except EvaluationError as error:
            undefined.append(error)
            continue
        found.append((f"pass_at_{k}", estimate, _PROBABILITY, pass_at_k.EVALUATOR_VERSION))
    for k in ks:
        if k > 1:
            majority = distribution.majority_at_k(problems, k)
            found.append((f"maj_at_{k}", majority, _PROBABILITY, version))
    for size in distribution.GROUP_SIZES:
        share = distribution.signal_share(counts, size)
        variance = distribution.signal_variance(counts, size)
        found.append((f"signal_share_{size}", share, _PROBABILITY, version))
        found.append((f"signal_variance_{size}", variance, "probability^2", version))
    distinct = distribution.distinct_answer_share(problems)
    name = f"distinct_answer_share_{distribution.DISTINCT_AT}"
    found.append((name, distinct, _SHARE, version))
    found.append(("token_entropy", distribution.token_entropy(problems), "nats/token", version))
    found.append(("response_tokens", distribution.response_tokens(problems), "tokens", version))
    for kind, estimate in distribution.verdict_shares(problems).items():
        found.append((f"{kind}_share", estimate, _SHARE, version))
    n_samples = sum(len(problem.verdicts) for problem in problems)
    proxies = [
        Proxy(
            name=name,
            value=estimate.value,
            se=estimate.se,
            se_within=estimate.se_within,
            unit=unit,
            benchmark=benchmark,
            benchmark_digest=benchmark_digest,
            protocol_digest=protocol_digest,
            n_problems=len(problems),
            n_samples=n_samples,
            evaluator_version=own_version,
        )
        for name, estimate, unit, own_version in found
        if estimate is not None
    ]
    return proxies, undefined


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
    errors are those of a mean of independent benchmarks.
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
        protocol_digest=first.protocol_digest,
        n_problems=sum(proxy.n_problems for proxy in own),
        n_samples=sum(proxy.n_samples for proxy in own),
        evaluator_version=first.evaluator_version,
    )


def _mean_se(errors: Sequence[float | None]) -> float | None:
    known = [error for error in errors if error is not None]
    if len(known) < len(errors):
        return None
    return math.sqrt(math.fsum(error**2 for error in known)) / len(known)
