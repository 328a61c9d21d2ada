"""Adaptive sampling of one benchmark: how many samples each problem gets, and pass@k from them.

The samples on disk are the only state, so a run that was killed continues from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rlready.evaluators.adaptive.allocation import Budget, next_samples
from rlready.evaluators.adaptive.estimate import EVALUATOR_VERSION, average, estimate_pass_at_k
from rlready.evaluators.adaptive.item_prior import MIN_CHECKPOINTS, fit_item_prior
from rlready.evaluators.adaptive.laws import LOGIT_G, CountBatch
from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.metrics.sample_metrics import ProblemSamples
from rlready.evaluators.sampling.sample_files import earlier_counts
from rlready.registry.records import AnswerFormat, Proxy
from rlready.workflow.evaluate.config import EvaluateConfig

MINIMUM = 4
"""Samples that every problem gets before the allocation begins."""

_MOST_OVER_MEAN = 4
"""Largest number of samples of one problem, in multiples of --samples or of the largest k."""


class AdaptiveRounds:
    """Decides in rounds how many samples each problem gets.

    Args:
        config: target standard error, samples and ks.
        benchmark: the benchmark.
        path: folder of its samples; the folders of earlier checkpoints are its siblings.
        warn: called with a note on each damaged file.
        answer_format: answer format of the counts of earlier checkpoints.
    """

    def __init__(
        self,
        config: EvaluateConfig,
        benchmark: Benchmark,
        path: Path,
        warn: Callable[[str], None],
        answer_format: AnswerFormat = "boxed",
    ) -> None:
        self._config, self._benchmark = config, benchmark
        self._budget = Budget(
            target_se=config.target_se or 0.0,
            max_per_problem=_MOST_OVER_MEAN * max(config.samples, config.k[-1]),
            max_mean=config.samples,
            minimum=min(MINIMUM, config.samples),
        )
        earlier = earlier_counts(path, warn, answer_format)
        self._prior = None
        self.history = f"counts of {len(earlier)} earlier checkpoints"
        """The evidence from earlier checkpoints, for people."""
        if len(earlier) >= MIN_CHECKPOINTS:
            ids = [problem.id for problem in benchmark.problems]
            counts = np.array([[by_id.get(i, (0, 0)) for i in ids] for by_id in earlier])
            self._prior = fit_item_prior(counts[:, :, 0], counts[:, :, 1])
            self.history += f" (interaction sd {self._prior.tau:g} logits)"
        else:
            self.history += f"; from {MIN_CHECKPOINTS} on they are used"

    def next_samples(self, problems: Sequence[ProblemSamples]) -> Mapping[str, int]:
        """Return how many more samples each problem gets, by its id; all are 0 at the end.

        Args:
            problems: all samples so far, in the order of the benchmark.
        """
        k = self._config.k[-1]
        drawn_P = np.array([len(problem.verdicts) for problem in problems])
        posterior_PG, se = np.full((len(problems), len(LOGIT_G)), 1.0 / len(LOGIT_G)), 1.0
        if drawn_P.min() >= self._budget.minimum:
            counts = [problem.counts for problem in problems]
            batch = CountBatch(np.array([[p.n for p in counts]]), np.array([[p.c for p in counts]]))
            fitted = average(batch, self._prior, seed=0)
            posterior_PG, se = fitted.posterior_RPG[0], float(fitted.mixture(k).sd_R[0])
        extra_P = next_samples(posterior_PG, drawn_P, k, se, self._budget)
        ids = (problem.problem_id for problem in problems)
        return dict(zip(ids, extra_P.tolist(), strict=True))

    def proxies(self, problems: Sequence[ProblemSamples], protocol_digest: str) -> list[Proxy]:
        """Return `pass_at_<k>_est` for every k."""
        counts = [problem.counts for problem in problems]
        ks = self._config.k
        estimates = estimate_pass_at_k(counts, ks, self._benchmark.name, prior=self._prior)
        return [
            Proxy(
                name=f"pass_at_{k}_est",
                value=estimate.value,
                se=estimate.se,
                se_within=estimate.se_within,
                unit="probability",
                benchmark=self._benchmark.name,
                benchmark_digest=self._benchmark.digest,
                protocol_digest=protocol_digest,
                n_problems=len(problems),
                n_samples=sum(p.n for p in counts),
                evaluator_version=EVALUATOR_VERSION,
            )
            for k, estimate in zip(ks, estimates, strict=True)
        ]


def even_part(problems: Sequence[ProblemSamples]) -> list[ProblemSamples]:
    """Return the first samples of every problem, the same number of each.

    Averages over all samples would give more weight to problems that got more samples because
    they failed.
    """
    least = min(len(problem.verdicts) for problem in problems)
    names = ("verdicts", "answers", "n_tokens", "is_truncated", "entropy_sums", "lenient_verdicts")
    return [
        dataclasses.replace(
            problem,
            **{name: values[:least] for name in names if (values := getattr(problem, name))},
        )
        for problem in problems
    ]
