"""The findings of a testbed run: how well each proxy ranks checkpoints by their score after RL.

Every proxy is compared with the common practice, post-SFT pass@1, on the same checkpoints. Signs
are fixed beforehand: lower is better for losses, higher for the rest. Entropy and length have no
better direction, so their correlation is reported as it is. Intervals are 95 % percentile intervals
over 2,000 resamplings of the checkpoints, and the difference to pass@1 is taken inside each
resampling.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rlready.registry.records import Proxy
from rlready.testbed.study.design import BASE, Design
from rlready.testbed.study.run import Made
from rlready.testbed.study.unit import MEAN, proxies_path, read_proxies

_RESAMPLINGS = 2000
_FEWEST = 8
"""Fewest checkpoints for which an interval is given."""
COLLAPSED_SHARE = 0.25
"""A checkpoint has collapsed if its pass@1 is below this share of the base's."""

POST_SFT_PASS_AT_1 = f"pass_at_1@{MEAN}"


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """How one proxy orders the checkpoints.

    Args:
        proxy: `<name>@<benchmark>`, after a minus sign if lower is better.
        spearman: rank correlation with the outcome.
        interval: of `spearman`; None below `_FEWEST` checkpoints, too few to resample.
        difference: `spearman` minus that of post-SFT pass@1.
        difference_interval: of `difference`.
        pairs_right: share of pairs of checkpoints that it orders as the outcome does.
    """

    proxy: str
    spearman: float
    interval: tuple[float, float] | None
    difference: float
    difference_interval: tuple[float, float] | None
    pairs_right: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The findings of a run; `to_dict` names each of them."""

    facts: Mapping[str, Any]
    ranked: tuple[Ranked, ...]
    ranked_without_collapsed: tuple[Ranked, ...]
    flips: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        return {
            **self.facts,
            "proxies": [vars(row) for row in self.ranked],
            "proxies_without_collapsed": [vars(row) for row in self.ranked_without_collapsed],
            "flips": [list(pair) for pair in self.flips],
        }


def summarize(out: Path, design: Design, made: Sequence[Made]) -> Summary:
    """Return the findings of a finished run in the folder `out`."""
    measured = read_proxies(proxies_path(out, BASE))
    assert measured is not None  # `make` returns when all exist
    base_pass_at_1 = next(p.value for p in measured[0] if _column(p) == POST_SFT_PASS_AT_1)
    end = design.profile.grpo.n_steps
    outcomes_CS = np.array([[run.mean_at(end) for run in m.runs.values()] for m in made])
    before_C = np.array([next(iter(m.runs.values())).mean_at(0) for m in made])
    outcome_C = outcomes_CS.mean(axis=1)
    proxies = proxy_values(made)
    practice_C = proxies[POST_SFT_PASS_AT_1]
    is_alive_C = practice_C >= COLLAPSED_SHARE * base_pass_at_1
    gained = outcome_C[is_alive_C] > before_C[is_alive_C]
    flips = _flips(practice_C, outcome_C, _noise(made, end))
    ids = [m.recipe.id for m in made]
    has_seeds = outcomes_CS.shape[1] > 1
    facts: dict[str, Any] = {
        "profile": design.profile_name,
        "seed": design.seed,
        "n_checkpoints": len(made),
        "n_rl_seeds": outcomes_CS.shape[1],
        "rl_steps": end,
        "base_pass_at_1": base_pass_at_1,
        "n_collapsed": int((~is_alive_C).sum()),
        "share_raised_by_rl": float(gained.mean()) if len(gained) else None,
        "post_rl_range": [float(outcome_C.min()), float(outcome_C.max())],
        "sd_between_checkpoints": float(outcome_C.std(ddof=1)) if len(made) > 1 else None,
        # The limit that RL seeds set on any prediction.
        "rl_seed_sd": float(np.sqrt(outcomes_CS.var(axis=1, ddof=1).mean())) if has_seeds else None,
        "rl_seed_spearman": spearman(*outcomes_CS.T[:2]) if has_seeds else None,
        "n_flips": len(flips),
        "n_pairs": math.comb(len(made), 2),
    }
    return Summary(
        facts=facts,
        ranked=rank_proxies(proxies, outcome_C),
        ranked_without_collapsed=rank_proxies(
            {name: values_C[is_alive_C] for name, values_C in proxies.items()},
            outcome_C[is_alive_C],
        ),
        flips=tuple((ids[i], ids[j]) for i, j in flips),
    )


def proxy_values(made: Sequence[Made]) -> dict[str, npt.NDArray[np.float64]]:
    """Return each proxy of the mean over benchmarks, and each loss: one value per checkpoint."""
    rows = [
        {_column(p): p.value for p in m.proxies if p.benchmark == MEAN or p.name == "heldout_nll"}
        for m in made
    ]
    common = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: np.array([row[name] for row in rows]) for name in common}


def rank_proxies(
    proxies: Mapping[str, npt.NDArray[np.float64]], outcome_C: npt.NDArray[np.float64]
) -> tuple[Ranked, ...]:
    """Compare every proxy with the outcome, the best first; none for under three checkpoints."""
    n = len(outcome_C)
    if n < 3:
        return ()
    rng = np.random.default_rng(0)
    resampled_RC = rng.integers(0, n, (_RESAMPLINGS, n))

    def resampled(a_C: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.array([spearman(a_C[rows], outcome_C[rows]) for rows in resampled_RC])

    practice_R = resampled(proxies[POST_SFT_PASS_AT_1])
    practice = spearman(proxies[POST_SFT_PASS_AT_1], outcome_C)
    ranked = []
    for name, values_C in proxies.items():
        if values_C.std() == 0.0:
            continue
        sign = -1.0 if name.startswith("heldout") else 1.0
        signed_C = sign * values_C
        correlation = spearman(signed_C, outcome_C)
        correlation_R = resampled(signed_C)
        ranked.append(
            Ranked(
                proxy=f"-{name}" if sign < 0 else name,
                spearman=correlation,
                interval=_interval(correlation_R, n),
                difference=correlation - practice,
                difference_interval=_interval(correlation_R - practice_R, n),
                pairs_right=_pairs_right(signed_C, outcome_C),
            )
        )
    return tuple(sorted(ranked, key=lambda row: -row.spearman))


def spearman(a_C: npt.NDArray[np.float64], b_C: npt.NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; nan if one side is constant."""
    from scipy.stats import rankdata

    a_ranks_C, b_ranks_C = rankdata(a_C), rankdata(b_C)
    if a_ranks_C.std() == 0.0 or b_ranks_C.std() == 0.0:
        return math.nan
    return float(np.corrcoef(a_ranks_C, b_ranks_C)[0, 1])


def _column(proxy: Proxy) -> str:
    return f"{proxy.name}@{proxy.benchmark}"


def _interval(values_R: npt.NDArray[np.float64], n_checkpoints: int) -> tuple[float, float] | None:
    if n_checkpoints < _FEWEST:
        return None
    low, high = np.nanpercentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def _pairs_right(a_C: npt.NDArray[np.float64], b_C: npt.NDArray[np.float64]) -> float:
    """Return the share of pairs that both order alike; a tie of the proxy counts half."""
    scores = [
        0.5 if a_C[i] == a_C[j] else float((a_C[i] < a_C[j]) == (b_C[i] < b_C[j]))
        for i, j in itertools.combinations(range(len(a_C)), 2)
        if b_C[i] != b_C[j]
    ]
    return statistics.fmean(scores) if scores else math.nan


def _noise(made: Sequence[Made], end: int) -> npt.NDArray[np.float64]:
    """Return the standard error of each checkpoint's mean outcome over problems."""
    errors = []
    for m in made:
        variances = []
        for run in m.runs.values():
            rows = [row for row in run.curve if row.budget == end]
            variances.append(math.fsum(row.se**2 for row in rows) / len(rows) ** 2)
        # The seeds are measured on the same problems: their errors do not average out.
        errors.append(math.sqrt(statistics.fmean(variances)))
    return np.array(errors)


def _flips(
    practice_C: npt.NDArray[np.float64],
    outcome_C: npt.NDArray[np.float64],
    se_C: npt.NDArray[np.float64],
) -> list[tuple[int, int]]:
    """Return pairs (i, j): i is ahead after SFT, j after RL by more than two standard errors."""
    flips = []
    for i, j in itertools.permutations(range(len(outcome_C)), 2):
        gap = outcome_C[j] - outcome_C[i]
        if practice_C[i] > practice_C[j] and gap > 2.0 * math.hypot(se_C[i], se_C[j]):
            flips.append((gap, i, j))
    return [(i, j) for _, i, j in sorted(flips, reverse=True)]
