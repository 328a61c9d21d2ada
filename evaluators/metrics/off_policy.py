"""How far a checkpoint has left its base model on the SFT data: quantiles of the log ratio.

For each scored token of a held-out set, with all tokens before it given:

    d_t = ln pi_sft(t) - ln pi_base(t)                                       [nats/token]
    off_policy_q50, off_policy_q90 = quantiles of d_t over all scored tokens

PEAR (arXiv 2602.01058) weights SFT tokens by the log ratio: SFT taught a token with d_t far above
0, which the base model would hardly have written. Each token has the same weight. Everything but
responses is masked, as in `heldout/loss.py`, and both models read the same token ids, those of the
checkpoint's tokenizer. A quantile is the smallest d_t with at least that share of the tokens at or
below it (numpy's `inverted_cdf`).

Standard error: 200 bootstrap draws of whole examples with a fixed seed, because the tokens of one
example are correlated. No published tool gives the number. It follows from two forward passes with
`heldout/loss.py`, which is checked against transformers. Version 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rlready.evaluators.metrics.estimates import Estimate
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Proxy

EVALUATOR_VERSION = "1"

QUANTILES = {"off_policy_q50": 0.5, "off_policy_q90": 0.9}

_DRAWS = 200
_SEED = 20_260_201

TokenNlls = Sequence[npt.NDArray[np.float32]]


def off_policy_proxies(
    checkpoint: TokenNlls,
    base: TokenNlls,
    benchmark: str,
    benchmark_digest: str,
    precision_digest: str | None = None,
) -> list[Proxy]:
    """Return the quantiles of the module docstring as proxies; `n_samples` counts tokens.

    Args:
        checkpoint: -ln p of the scored tokens of each example under the checkpoint, nats.
        base: the same of the base model, for the same tokens.
        benchmark: name of the held-out set.
        benchmark_digest: digest of the set and the base model, because another base model gives
            another number.
        precision_digest: `Precision.digest` of the number format of both losses.

    Raises:
        EvaluationError: if the tokens differ, or there are none.

    Example:
        >>> nlls, base_nlls = [np.array([0.5, 1.5])], [np.array([1.0, 1.0])]
        >>> off_policy_proxies(nlls, base_nlls, "held", heldout_set.digest)[0].value
        -0.5
    """
    lengths = [len(nlls) for nlls in checkpoint]
    if lengths != [len(nlls) for nlls in base] or not sum(lengths):
        raise EvaluationError(
            f"held-out set {benchmark} was not scored on the same tokens by checkpoint and base"
        )
    ratios = np.concatenate(base).astype(np.float64) - np.concatenate(checkpoint)
    return [
        Proxy(
            name=name,
            value=estimate.value,
            se=estimate.se,
            unit="nats/token",
            benchmark=benchmark,
            benchmark_digest=benchmark_digest,
            protocol_digest=precision_digest,
            n_problems=len(lengths),
            n_samples=len(ratios),
            evaluator_version=EVALUATOR_VERSION,
        )
        for name, estimate in zip(
            QUANTILES, quantiles(ratios, lengths, list(QUANTILES.values())), strict=True
        )
    ]


def quantiles(
    values: npt.NDArray[np.float64], lengths: Sequence[int], levels: Sequence[float]
) -> list[Estimate]:
    """Return quantiles over all values, with standard errors over groups of values.

    Args:
        values: the values, one group after the other, shape (n,).
        lengths: number of values of each group.
        levels: levels of the quantiles, in (0, 1].
    """
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    group = np.repeat(np.arange(len(lengths)), lengths)[order]
    estimates = _at(ascending, np.ones(len(values)), levels)
    if len(lengths) < 2:
        return [Estimate(value=float(value), se=None) for value in estimates]
    rng = np.random.default_rng(_SEED)
    share = np.full(len(lengths), 1.0 / len(lengths))
    draws = []
    for _ in range(_DRAWS):
        weights = rng.multinomial(len(lengths), share)[group].astype(np.float64)
        # All drawn examples may be without a scored token.
        if weights.any():
            draws.append(_at(ascending, weights, levels))
    errors = np.std(draws, axis=0, ddof=1)
    return [Estimate(value=float(v), se=float(e)) for v, e in zip(estimates, errors, strict=True)]


def _at(
    ascending: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], levels: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Return the values at which the cumulated weight reaches each share of the total."""
    so_far = np.cumsum(weights)
    # Sums of whole numbers are exact; the product is not.
    wanted = np.ceil(np.round(np.asarray(levels) * so_far[-1], 9))
    chosen: npt.NDArray[np.float64] = ascending[np.searchsorted(so_far, wanted, side="left")]
    return chosen
