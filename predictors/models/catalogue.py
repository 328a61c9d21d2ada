"""The models that predict outcomes, by name, and the default model.

Baselines (`baselines.py`) are the current practice, which a model has to beat. All models share
`Features` and an intercept for each group; they differ in how features become predictions.

The default is `bounded`: `multilevel` under a ceiling, where outcomes show one. It replaced
`multilevel` because it was better or equal on every line of `bench/bounded.py` (docs/LOG.md).
`multilevel` was chosen on 2026-11-21, before it was scored on any real outcome, for reasons that
can be checked without real outcomes:

- Registries have 10 to 200 outcomes, most proxies measure one thing in several ways, and after
  their links (`scales.py`) effects are nearly linear. A shrunken plane therefore suffices.
- In some registries the level of a proxy means the same in all groups (a common held-out set), in
  others it does not (each recipe has its own set). A centred model loses the information of the
  first, a raw model is misled by the second. `multilevel` learns from the outcomes which it is.
- Its penalties come from the marginal likelihood of all rows, not from folds of a few rows. If the
  outcomes are too few to separate slopes, it falls back to the signed average of the kinds.
- It gives a covariance of its uncertainty. A fit on 200 rows x 40 proxies takes hundredths of a
  second, so leaving each row and each group out is affordable.
- It was compared with the others on simulated registries only (`bench/simulated.py --worlds`). It
  was first or nearly first, both inside new groups and pooled over them. With 3 rows in each of 5
  groups it ranked a new group at Spearman 0.83; ridge, PLS and a mean of three got 0.69 to 0.70.
  The unfitted average of the proxies did as well there, but fell to 0.28 where scores mislead; the
  default kept 0.73.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.linear_model import BayesianRidge

from rlready.predictors.features import plain_columns
from rlready.predictors.kinds import k_of_pass
from rlready.predictors.models.baselines import OneProxy, RankAverage
from rlready.predictors.models.bounded import Bounded
from rlready.predictors.models.gaussian_process import GaussianProcess
from rlready.predictors.models.group_intercept import GroupIntercept, ridge
from rlready.predictors.models.mixture_shares import MixtureRegressor
from rlready.predictors.models.multilevel import Multilevel
from rlready.predictors.models.pls import WeightedPLS
from rlready.predictors.training_table import UNKNOWN, Column, Kind
from rlready.registry.errors import ConfigError

DEFAULT_MODEL = "bounded"

BASELINES = (
    "constant",
    "pass_at_1",
    "loss",
    "pass_at_k",
    "rank_average",
    "n_unique",
    "rl_probe",
)
"""Names of the baselines; all except the first need certain columns."""

MODELS = (
    "multilevel",
    "bounded",
    "ridge",
    "pls",
    "bayesian_ridge",
    "extra_trees",
    "hist_gb",
    "gp",
    "mean_of_three",
)
"""Names of the models, which take any columns."""

MIXTURE = "mixture"
"""Name of the model of data mixtures, whose columns are shares; not among `model_names`."""


def model_names(columns: Sequence[Column], score: str | None = None) -> list[str]:
    """Return the models that these columns allow, baselines first.

    `baselines_left_out` gives the reasons for the others.

    Example:
        >>> model_names([Column(name="pass_at_1", kind=Kind.PROBABILITY, sign=1)])[:2]
        ['constant', 'pass_at_1']
    """
    lacking = baselines_left_out(columns, score)
    return [name for name in (*BASELINES, *MODELS) if name not in lacking]


def baselines_left_out(columns: Sequence[Column], score: str | None = None) -> dict[str, str]:
    """Return, for each baseline that these columns do not allow, a note on what is missing."""
    needs = {
        "pass_at_1": "a column pass_at_1, or the name of the post-SFT score",
        "loss": "a column of losses",
        "pass_at_k": "a column pass_at_K with K above 1",
        "rank_average": "a column with a known sign (whether larger is better)",
        "n_unique": "a column n_unique",
        "rl_probe": "a column of an RL probe",
    }
    return {
        name: f"{name} is left out: there is no column for it; it needs {what}"
        for name, what in needs.items()
        if not baseline_proxies(name, columns, score)
    }


def make_model(
    name: str,
    columns: Sequence[Column] | None,
    *,
    score: str | None = None,
    levels: str = UNKNOWN,
) -> Any:
    """Make an unfitted regressor that takes `TrainingTable.X`.

    Args:
        name: "default", or one of `model_names`, or `MIXTURE`.
        columns: the proxies. None: any array of numbers, for tests of the contract.
        score: column of post-SFT pass@1, if it has another name; for the baseline "pass_at_1".
        levels: as `TrainingTable.levels`; for the models that use it.

    Raises:
        ConfigError: if there is no such model, or these columns do not allow it.

    Example:
        >>> model = make_model("default", table.columns).fit(table.X, table.y)
        >>> model.predict(table.X).shape
        (6,)
    """
    name = DEFAULT_MODEL if name == "default" else name
    if name in BASELINES:
        return _baseline(name, columns, score)
    plain = None if columns is None else plain_columns(columns)
    if name == "multilevel":
        return Multilevel(columns=plain, levels=levels)
    if name == "bounded":
        return Bounded(columns=plain, levels=levels)
    if name == MIXTURE:
        return MixtureRegressor(columns=None if columns is None else [c.name for c in columns])
    if name not in MODELS:
        names = ", ".join((*BASELINES, *MODELS, MIXTURE))
        raise ConfigError(f"there is no model {name!r}", fix=f"Known: {names}")
    signs = None if columns is None else [column.sign for column in columns]
    return GroupIntercept(_inner(name, signs), columns=plain)


def _inner(name: str, signs: list[int] | None) -> Any:
    """Return the regressor that `GroupIntercept` fits to the features."""
    if name == "ridge":
        return ridge()
    if name == "pls":
        return WeightedPLS()
    if name == "bayesian_ridge":
        return BayesianRidge()
    if name == "extra_trees":
        return _trees()
    if name == "gp":
        return GaussianProcess()
    if name == "hist_gb":
        # Raw features come first, then the centred ones, which have the same signs.
        return HistGradientBoostingRegressor(
            max_iter=50,
            max_depth=3,
            min_samples_leaf=4,
            early_stopping=False,
            monotonic_cst=None if signs is None else [*signs, *signs],
            random_state=0,
        )
    return VotingRegressor([("ridge", ridge()), ("pls", WeightedPLS()), ("trees", _trees())])


def _trees() -> ExtraTreesRegressor:
    return ExtraTreesRegressor(
        n_estimators=50, min_samples_leaf=2, max_features=0.5, random_state=0
    )


def _baseline(name: str, columns: Sequence[Column] | None, score: str | None) -> Any:
    if name == "constant":
        return DummyRegressor()
    if columns is None:
        return RankAverage() if name == "rank_average" else OneProxy(logarithm=name == "n_unique")
    proxies = baseline_proxies(name, columns, score)
    if not proxies:
        reason = baselines_left_out(columns, score)[name]
        names = ", ".join(column.name for column in columns)
        raise ConfigError(reason, fix=f"Columns: {names}")
    if name == "rank_average":
        return RankAverage(columns=plain_columns(columns))
    return OneProxy(proxies=proxies, logarithm=name == "n_unique")


def baseline_proxies(name: str, columns: Sequence[Column], score: str | None = None) -> list[str]:
    """Return the columns that a baseline uses: one proxy, on all benchmarks that have it."""
    if name == "rank_average":
        return [column.name for column in columns if column.sign]
    if name == "pass_at_1" and score is not None:
        if score not in {column.name for column in columns}:
            names = ", ".join(column.name for column in columns)
            raise ConfigError(f"there is no column {score!r}", fix=f"Columns: {names}")
        return [score]
    candidates = [column.name for column in columns if _suits(name, column)]
    if not candidates:
        return []
    # Use one measure on every benchmark; for pass@k, the largest k.
    measure = {c: k_of_pass(c, strict=True) or c.partition("@")[0].lower() for c in candidates}
    chosen = measure[candidates[0]]
    if name == "pass_at_k":
        chosen = max(k_of_pass(c, strict=True) or 0 for c in candidates)
    return [c for c in candidates if measure[c] == chosen]


def _suits(name: str, column: Column) -> bool:
    bare = column.name.partition("@")[0].lower()
    if name == "pass_at_1":
        return k_of_pass(column.name, strict=True) == 1
    if name == "pass_at_k":
        return (k_of_pass(column.name, strict=True) or 0) > 1
    if name == "loss":
        return column.kind is Kind.LOSS
    if name == "n_unique":
        return bare.endswith("n_unique")
    # The level of an RL probe. Of two probes the longer one is used: it comes last.
    return name == "rl_probe" and re.search(r"(^|_)probe_.*level$|^rl_probe", bare) is not None
