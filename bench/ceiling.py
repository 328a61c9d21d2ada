"""Claim: on RL curves with outliers, late collapses and correlated noise, the robust fit finds the ceiling.

Curves follow the law of `predictors/rl_ceiling.py` with a known A: 70 evaluations, noise 0.4 points
with lag-1 correlation 0.3, 5 % single bad evaluations (2 to 8 points low), every fourth run
collapses over its last 10 %. Goals: 90 % intervals hold A in 0.85 or more of the curves where a
number is given; median error no larger than that of plain least squares (scipy's curve_fit with
the same start and bounds) on the same curves; of curves that were stopped before half of their
gain, at most 10 % get a number whose interval misses A.

Measured on 2026-11-21 (seed 0): coverage 0.849 clean and 0.874 spoilt, so the first goal is missed
by a hair; error 0.112 and 0.108 (least squares 0.109 and 0.572); 5 % false claims (40 %).

    python bench/ceiling.py [--quick] [--json] [--seed 0]
"""  # noqa: E501 - the claim is one line

from __future__ import annotations

import argparse
import json
import warnings
from typing import Any

import numpy as np
from rl_ceiling import fit_ceiling
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import t as student

from rlready.predictors.rl_curve import Curve, CurvePoint

START, NOISE, CORRELATION = 70.0, 0.4, 0.3
GOALS = {"coverage": 0.85, "false_claims": 0.10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60 curves of each kind, not 500")
    parser.add_argument("--json", action="store_true", help="print the last line only")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    n_curves = 60 if arguments.quick else 500
    result: dict[str, Any] = {"bench": "ceiling", "n_curves": n_curves, "goals": GOALS}
    kinds = {"clean": (False, 1.0), "spoilt": (True, 1.0), "stopped early": (True, 0.0)}
    for kind, (spoilt, until) in kinds.items():
        rows = [_compared(rng, spoilt=spoilt, whole=until > 0) for _ in range(n_curves)]
        result[kind] = _summary(rows)
    if not arguments.json:
        _print(result)
    spoilt = result["spoilt"]
    result["reached"] = {
        "coverage": min(result["clean"]["coverage"], spoilt["coverage"]) >= GOALS["coverage"],
        "error": spoilt["error"] <= spoilt["error_least_squares"],
        "false_claims": result["stopped early"]["false_claims"] <= GOALS["false_claims"],
    }
    print(json.dumps(result))


def _compared(rng: np.random.Generator, *, spoilt: bool, whole: bool) -> tuple[float, ...]:
    """A, our value, low, high, and least squares' value, low, high; NaN for no number."""
    x = np.linspace(3.5, 240.0, 70)
    gain, steep = rng.uniform(3.0, 10.0), rng.uniform(0.8, 4.0)
    half = rng.uniform(15.0, 80.0) if whole else rng.uniform(1.1, 2.0) * 240.0
    truth = START + gain
    noise = np.empty(len(x))
    noise[0] = rng.standard_normal()
    for i in range(1, len(x)):
        noise[i] = CORRELATION * noise[i - 1]
        noise[i] += np.sqrt(1 - CORRELATION**2) * rng.standard_normal()
    y = _law(x, truth, half, steep) + NOISE * noise
    if spoilt:
        bad = rng.random(len(x)) < 0.05
        y[bad] -= rng.uniform(2.0, 8.0, size=int(bad.sum()))
        if rng.random() < 0.25:
            y[-7:] -= np.linspace(2.0, 15.0, 7)
    points = [CurvePoint(budget=float(a), value=float(b)) for a, b in zip(x, y, strict=True)]
    ours = fit_ceiling(Curve(benchmark="simulated", points=tuple(points)), START, upper=100.0)
    value = np.nan if ours.value is None else ours.value
    return (truth, value, ours.low, ours.high, *_least_squares(x, y))


def _law(x: Any, ceiling: float, half: float, steep: float) -> Any:
    return START + (ceiling - START) / (1.0 + (x / half) ** -steep)


def _least_squares(x: Any, y: Any) -> tuple[float, float, float]:
    """What a script would do: curve_fit, and its standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            found, covariance = curve_fit(
                _law, x, y, p0=(y.max(), 60.0, 1.5), bounds=((START, 1.0, 0.3), (100, 960.0, 12.0))
            )
        except RuntimeError:
            return np.nan, np.nan, np.nan
    half_width = student.ppf(0.95, len(x) - 3) * np.sqrt(covariance[0, 0])
    return found[0], found[0] - half_width, found[0] + half_width


def _summary(rows: list[tuple[float, ...]]) -> dict[str, float]:
    truth, ours, low, high, theirs, their_low, their_high = np.array(rows).T
    given = np.isfinite(ours)
    held = (low <= truth) & (truth <= high)
    their_held = (their_low <= truth) & (truth <= their_high)

    def over(values: Any) -> float:
        return round(float(np.mean(values)), 4) if len(values) else float("nan")

    figures = {
        "identified": over(given),
        "coverage": over(held[given]),
        "coverage_all": over(held),
        "error": float(np.median(np.abs(ours - truth)[given])) if given.any() else None,
        "false_claims": over(given & ~held),
        "coverage_least_squares": over(their_held[given]),
        "error_least_squares": float(np.nanmedian(np.abs(theirs - truth)[given]))
        if given.any()
        else None,
        "false_claims_least_squares": over(~their_held),
    }
    return {
        k: round(v, 4) if v is not None and np.isfinite(v) else None for k, v in figures.items()
    }


def _print(result: dict[str, Any]) -> None:
    n = result["n_curves"]
    print(f"{n} curves of each kind; median error in points where we give a number")
    head = ("", "given", "cover", "cover all", "error", "false", "LS cover", "LS error", "LS false")
    print("".join(f"{word:>14}" for word in head))
    for kind in ("clean", "spoilt", "stopped early"):
        cells = (
            f"{value:14.3f}" if value is not None else f"{'-':>14}"
            for value in result[kind].values()
        )
        print(f"{kind:>14}" + "".join(cells))


if __name__ == "__main__":
    main()
