"""Fit a predictor on the registry, and use it: rank checkpoints, plan RL runs, tag what is ready.

The one place where registry and predictors meet. What is fitted is stored as an MLflow model with
its training table, validation report and figures; ranking and planning load it from there, so
that they say the same on every machine.
"""

from __future__ import annotations

import inspect
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.calibration.contributions import contributions
from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.decisions.preflight import (
    Finding,
    conflicts,
    mean_proxies,
    preflight,
    proxies_of,
)
from rlready.predictors.decisions.ranking import Candidates, Ranking, rank
from rlready.predictors.decisions.readiness import ReadyRule, Recorded
from rlready.predictors.decisions.rl_plan import Incumbent, Plan, PlanRule
from rlready.predictors.decisions.rl_plan import plan as make_plan
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray, TrainingTable
from rlready.predictors.validation.validate import ValidationReport, validate
from rlready.registry.digest import digest
from rlready.registry.errors import ConfigError
from rlready.registry.mlflow_store.predictors.records import (
    FittedPredictor,
    LoadedPredictor,
    StoredPredictor,
    check_columns,
)
from rlready.registry.mlflow_store.predictors.store import get_predictor, put_predictor
from rlready.registry.readiness_tag import ReadinessTag
from rlready.workflow.predict.registry_table import PRACTICE, RegistryTable, registry_table

if TYPE_CHECKING:
    import pandas as pd

    from rlready.registry.mlflow_store.store import MlflowStore

_SPLITS = ("loo", "group")
_SPLIT_WORDS = {"loo": "rows left out", "group": "groups left out"}
_SAID = ("r2", "spearman", "decision_accuracy", "regret_at_1")
_AFTER_OUTCOME = "of the true score, from the recorded outcome and the prediction: model-based"

_OUR_MODULES = (
    "calibration.distances",
    "calibration.domain",
    "calibration.error_law",
    "calibration.intervals",
    "calibration.predictor",
    "calibration.signal_test",
    "features",
    "models.baselines",
    "models.gaussian_process",
    "models.group_intercept",
    "models.mixture_shares",
    "models.multilevel",
    "models.pls",
    "scales",
    "search.surrogate",
    "validation.folds",
)
"""Modules of `rlready.predictors` whose classes may stand in a stored predictor."""

_TREES = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""Of scikit-learn's tree models. They hold arrays and no code. Arrays that are not a tree could
crash the process, so the digest of the file is checked first."""


@dataclass(frozen=True, kw_only=True)
class FitReport:
    """What a fit gave.

    Args:
        stored: where the predictor went.
        data: what it was fitted on.
        validation: how well it does on rows that it has not seen.
        signal: what the permutation test says, in words.
        practice: column of post-SFT pass@1, None if there is none.
        model: name of the model.
    """

    stored: StoredPredictor
    data: RegistryTable
    validation: ValidationReport
    signal: str
    practice: str | None
    model: str

    def to_dict(self) -> dict[str, Any]:
        """The report as one JSON object: the contract of `rlready fit --json`."""
        meta = self.stored.meta
        table = self.data.table
        return {
            "predictor": meta.name,
            "version": meta.version,
            "uri": meta.uri,
            "model_id": meta.model_id,
            "run_id": meta.run_id,
            "is_new": self.stored.is_new,
            "model": self.model,
            "target": self.data.target,
            "features": [column.name for column in table.columns],
            "groups": list(self.data.groups),
            "n_rows": len(table.with_outcome()),
            "n_without_outcome": len(table) - len(table.with_outcome()),
            "signal": self.signal,
            "practice": self.practice,
            "validation": self.validation.to_dict(),
            "notes": list(self.data.notes),
        }


def fit(
    store: MlflowStore,
    *,
    target: str | None = None,
    model: str = "default",
    features: Sequence[str] = (),
    groups: Sequence[str] = (),
    name: str,
    level: float = 0.9,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> FitReport:
    """A predictor fitted on the registry, validated and stored.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    from rlready.workflow.predict.figures import draw_predictions

    data = registry_table(store, target=target, features=features, groups=groups)
    table = data.table.with_outcome()
    say(f"Fitting {model} on {len(table)} checkpoints with {data.target}")
    predictor = CalibratedPredictor(model, level=level, versions=data.versions, seed=seed)
    predictor.fit(table)
    practice = practice_column(table)
    say("Validating on rows and groups that the model has not seen")
    report = validate(table, (model,), _SPLITS, baseline=practice, seed=seed, progress=progress)
    model = report.default_model if model == "default" else model
    signal = predictor.signal_.in_words()
    with tempfile.TemporaryDirectory() as folder:
        figure = draw_predictions(Path(folder) / "predicted_and_true.png", predictor, table)
        stored = put_predictor(
            store,
            FittedPredictor(
                estimator=predictor,
                X=table.X,
                table=_as_read(data),
                table_digest=_digest(data),
                target=data.target,
                column_versions=data.versions,
                trusted_types=trusted_types(),
                params={
                    "model": model,
                    "groups": ",".join(data.groups) or "none",
                    "level": level,
                    "seed": seed,
                    "n_features": len(table.columns),
                },
                metrics=_metrics(report, model),
                report=report.to_dict(),
                figures={"predicted_and_true.png": figure},
                summary=(signal, *_said(report, model), *predictor.notes_),
            ),
            name,
        )
    return FitReport(
        stored=stored,
        data=data,
        validation=report,
        signal=signal,
        practice=practice,
        model=model,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A stored predictor beside the registry's present rows.

    Args:
        predictor: as fitted.
        meta: what is known of it.
        data: the registry now, with the predictor's target, proxies and groups.
        posterior: of the true score of each row; a recorded outcome counts in its own row.
    """

    predictor: CalibratedPredictor
    meta: Any
    data: RegistryTable
    posterior: Predictive

    @cached_property
    def assessed(self) -> pd.DataFrame:
        """What the predictor alone says of each row."""
        return self.predictor.assess(self.data.table.X)

    @cached_property
    def names(self) -> list[str]:
        """(n,) name of each checkpoint, different ones."""
        return _names(self.data.frame)

    @cached_property
    def outcomes(self) -> dict[str, float]:
        """Recorded outcomes by name, in the user's target."""
        shown = self.data.table.shown(self.data.table.y)
        return {
            name: float(value)
            for name, value in zip(self.names, shown, strict=True)
            if np.isfinite(value)
        }

    @property
    def has_outcome(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """(n,) whether RL was run from the checkpoint."""
        return np.isfinite(self.data.table.y)


def load(store: MlflowStore, reference: str) -> Loaded:
    """A stored predictor, applied to the registry as it is now.

    Raises:
        StoreError: if there is none, it was tampered with, or the registry's columns were measured
            otherwise.
    """
    loaded: LoadedPredictor = get_predictor(store, reference, trusted_types=trusted_types())
    predictor: CalibratedPredictor = loaded.estimator
    groups = [part for part in str(loaded.meta.params["groups"]).split(",") if part != "none"]
    features = [name for name, *_ in predictor.columns_]
    data = registry_table(store, target=loaded.meta.target, features=features, groups=groups)
    check_columns(loaded.meta, data.versions)
    return Loaded(
        predictor=predictor,
        meta=loaded.meta,
        data=data,
        posterior=posterior(predictor, data.table),
    )


def posterior(predictor: CalibratedPredictor, table: TrainingTable) -> Predictive:
    """What is known of the true score of each row.

    Rows that the predictor was fitted on are predicted by the model that has not seen them. An
    outcome y with standard error s and a prediction m with row sd r and level sd g are joined by
    their precisions; what is left is the row's own.
    """
    prior = unseen(predictor, table)
    has = np.isfinite(table.y)
    noise = np.where(np.isfinite(table.y_error), table.y_error, run_noise(predictor))
    total = prior.row_sd**2 + prior.group_sd**2
    weight = np.where(has, total / (total + noise**2), 0.0)
    return replace(
        prior,
        mean=prior.mean + weight * (np.where(has, table.y, prior.mean) - prior.mean),
        row_sd=np.where(has, np.sqrt(weight) * noise, prior.row_sd),
        group_sd=np.where(has, 0.0, prior.group_sd),
    )


def unseen(predictor: CalibratedPredictor, table: TrainingTable) -> Predictive:
    """What is predicted of the true score of each row by a model that has not seen its outcome."""
    everything = predictor.predictive(table.X, noise=False)
    held_out = dict(zip(predictor.ids_, predictor.out_of_fold_, strict=True))
    mean = np.array([held_out.get(name, math.nan) for name in table.ids])
    return replace(everything, mean=np.where(np.isfinite(mean), mean, everything.mean))


def run_noise(predictor: CalibratedPredictor) -> float:
    """Standard deviation of one RL run's score around the true one; 0 if it is not known."""
    noise = predictor.calibration_.rl_noise
    return noise if math.isfinite(noise) else 0.0


def rank_registry(
    store: MlflowStore,
    reference: str,
    *,
    groups: Sequence[str] = (),
    top_n: int = 3,
    rule: ReadyRule | None = None,
) -> tuple[Ranking, Loaded]:
    """The registry's checkpoints by what is known of their score after RL.

    Args:
        store: the registry.
        reference: of the predictor.
        groups: only these groups; default all.
        top_n: P(top N) is given for this N.
        rule: when a checkpoint is ready.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    loaded = load(store, reference)
    table = loaded.data.table
    keep = np.ones(len(table), dtype=bool)
    if groups:
        unknown = sorted(set(groups) - set(table.groups.tolist()))
        if unknown:
            raise ConfigError(
                f"there is no group {', '.join(unknown)}",
                fix=f"Groups: {', '.join(np.unique(table.groups).tolist())}",
            )
        keep = np.isin(table.groups, list(groups))
    signal = loaded.predictor.signal_
    return (
        rank(
            _candidates(loaded, keep),
            recorded=_recorded(loaded),
            rl_noise=run_noise(loaded.predictor) or None,
            signal_p=signal.p,
            top_n=top_n,
            rule=rule,
        ),
        loaded,
    )


def _candidates(loaded: Loaded, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> Candidates:
    """All rows that are kept, with intervals, domain, and what speaks for and against them."""
    table, predictor = loaded.data.table, loaded.predictor
    frame = loaded.assessed
    ends = np.sort(
        np.array([table.shown(frame["low"].to_numpy()), table.shown(frame["high"].to_numpy())]),
        axis=0,
    )
    z = _normal_quantile(predictor.level)
    known = loaded.has_outcome
    post = loaded.posterior
    # With an outcome the interval is of the true score; without one, of a run's score.
    low = np.where(known, post.mean - z * post.row_sd, ends[0])
    high = np.where(known, post.mean + z * post.row_sd, ends[1])
    rows = np.flatnonzero(keep)
    names = loaded.names
    parts = contributions(predictor, table.X, [column.name for column in table.columns])
    findings = _findings(loaded.data)
    return Candidates(
        ids=[names[i] for i in rows],
        predictive=post.rows(rows),
        low=low[rows],
        high=high[rows],
        interval=f"{predictor.level:.0%}",
        domain=[str(frame["domain"].iloc[i]) for i in rows],
        domain_reasons=[[str(frame["reasons"].iloc[i])] for i in rows],
        contributions={name: values[rows] for name, values in parts.items()},
        findings=[findings[i] for i in rows],
        target=loaded.data.target,
        lower_is_better=table.lower_is_better,
    )


def _findings(data: RegistryTable) -> list[tuple[Finding, ...]]:
    """Of the pre-flight of each row, on the benchmark that the predictor's proxies come from."""
    rows = [
        proxies_of({str(name): value for name, value in row.items()})
        for row in data.frame.to_dict("records")
    ]
    sampled = [c.name.partition("@")[2] for c in data.table.columns if c.name.startswith("pass_at")]
    if not sampled:
        return [() for _ in rows]
    found: list[tuple[Finding, ...]] = []
    everything = mean_proxies(rows)
    for row in rows:
        if not any(name.endswith(f"@{sampled[0]}") for name in row):
            found.append(())  # this checkpoint was not measured there
            continue
        against = conflicts(row, everything, "the mean of all checkpoints", sampled[0])
        found.append((*preflight(row, sampled[0]), *against))
    return found


def _recorded(loaded: Loaded) -> list[Recorded]:
    table, names = loaded.data.table, loaded.names
    return [
        Recorded(
            id=names[i],
            group=str(table.groups[i]),
            value=float(table.y[i]),
            se=float(table.y_error[i]) if np.isfinite(table.y_error[i]) else None,
        )
        for i in np.flatnonzero(np.isfinite(table.y))
    ]


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """A plan, and, where every outcome is known already, what it would have given.

    Args:
        plan: whom the RL runs go to.
        target: the outcome.
        is_retrospective: whether all candidates have their outcome, and the plan was made as if
            none had.
        realised_regret: then, best recorded outcome less the best one of the chosen; else None.
        meta: of the predictor.
    """

    plan: Plan
    target: str
    is_retrospective: bool
    realised_regret: float | None
    meta: Any

    def to_dict(self) -> dict[str, Any]:
        """The plan as one JSON object: the contract of `rlready plan --json`."""
        return {
            **self.plan.to_dict(),
            "target": self.target,
            "predictor": self.meta.uri,
            "is_retrospective": self.is_retrospective,
            "realised_regret": self.realised_regret,
        }


def plan_registry(
    store: MlflowStore,
    reference: str,
    n_runs: int,
    *,
    rl_noise: float | None = None,
    rule: PlanRule | None = None,
) -> PlanReport:
    """The checkpoints that get the next RL runs, and what each run is worth.

    Candidates are the checkpoints without an outcome; the best recorded one can be kept without
    another run. Where all have an outcome, the plan is made as if none had, from predictions by
    models that have not seen the row, and is judged by what came true.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    loaded = load(store, reference)
    table, predictor = loaded.data.table, loaded.predictor
    if not predictor.has_signal():
        raise ConfigError(
            "no plan can be made",
            why=predictor.signal_.in_words(),
            fix="Choose by other means, or record more outcomes and fit again",
        )
    known = loaded.has_outcome
    is_retrospective = bool(known.all())
    rows = np.arange(len(table)) if is_retrospective else np.flatnonzero(~known)
    names = loaded.names
    noise = run_noise(predictor) if rl_noise is None else rl_noise
    made = make_plan(
        unseen(predictor, table).rows(rows),
        [names[i] for i in rows],
        n_runs,
        rl_noise=noise,
        incumbent=None if is_retrospective else _incumbent(loaded, names, noise),
        scores=_practice_scores(table, rows),
        rule=rule,
    )
    realised = None
    if is_retrospective:
        value = dict(zip(names, table.y.tolist(), strict=True))
        realised = max(value.values()) - max(value[name] for name in made.chosen)
    return PlanReport(
        plan=made,
        target=loaded.data.target,
        is_retrospective=is_retrospective,
        realised_regret=realised,
        meta=loaded.meta,
    )


def _incumbent(loaded: Loaded, names: Sequence[str], noise: float) -> Incumbent | None:
    rows = np.flatnonzero(loaded.has_outcome)
    if not len(rows):
        return None
    best = int(rows[np.argmax(loaded.posterior.mean[rows])])
    sd = float(loaded.posterior.row_sd[best])
    return Incumbent(id=names[best], value=float(loaded.posterior.mean[best]), sd=min(sd, noise))


def _practice_scores(table: TrainingTable, rows: np.ndarray[Any, Any]) -> dict[str, FloatArray]:
    practice = practice_column(table)
    if practice is None:
        return {}
    values = table.X[practice].to_numpy(dtype=np.float64)[rows]
    return {practice: np.where(np.isfinite(values), values, np.nanmin(values))}


def ranked_tags(
    store: MlflowStore,
    reference: str,
    *,
    made_at: datetime,
    rule: ReadyRule | None = None,
) -> tuple[list[ReadinessTag], frozenset[str]]:
    """What a ranking says of each checkpoint, the best first, and ids of those that had their RL.

    Raises:
        RlreadyError: for any mistake of the user or the environment.
    """
    ranking, loaded = rank_registry(store, reference, rule=rule)
    ids = dict(zip(loaded.names, loaded.data.table.ids, strict=True))
    promises = dict(zip(loaded.names, loaded.assessed["promise"], strict=True))
    promises.update(dict.fromkeys(loaded.outcomes, _AFTER_OUTCOME))
    tags = [
        ReadinessTag(
            checkpoint_id=ids[row.id],
            readiness=row.readiness,
            predicted=row.predicted,
            low=row.low,
            high=row.high,
            level=loaded.predictor.level,
            regime=promises[row.id],
            domain=row.domain,
            target=loaded.data.target,
            predictor=loaded.meta.name,
            predictor_version=str(loaded.meta.version),
            rule_digest=ranking.rule.digest,
            reasons=row.reasons,
            made_at=made_at,
        )
        for row in ranking.rows
    ]
    return tags, frozenset(ids[name] for name in loaded.outcomes)


def practice_column(table: TrainingTable) -> str | None:
    """The proxy that people choose by: post-SFT pass@1, if it is among the columns."""
    return next((c.name for c in table.columns if c.name.partition("@")[0] == PRACTICE), None)


def trusted_types() -> list[str]:
    """Full names of the classes that a stored predictor may hold: our own, and trees."""
    names = list(_TREES)
    for part in _OUR_MODULES:
        module: ModuleType = import_module(f"rlready.predictors.{part}")
        own = inspect.getmembers(module, inspect.isclass)
        names += [
            f"{one.__module__}.{one.__qualname__}"
            for _, one in own
            if one.__module__ == module.__name__
        ]
    return sorted(set(names))


def _names(frame: pd.DataFrame) -> list[str]:
    """Name of each checkpoint, with its id where several share one."""
    shared = frame["name"].duplicated(keep=False)
    return [
        f"{name}-{identity[:8]}" if is_shared else str(name)
        for name, identity, is_shared in zip(
            frame["name"], frame["checkpoint_id"], shared, strict=True
        )
    ]


def _as_read(data: RegistryTable) -> pd.DataFrame:
    """The rows that were fitted, as the registry gave them."""
    return data.frame[np.isfinite(data.table.y)].reset_index(drop=True)


def _digest(data: RegistryTable) -> str:
    table = data.table.with_outcome()
    numbers: Mapping[str, Any] = {
        str(name): [None if value != value else value for value in table.X[name].tolist()]
        for name in table.X
    }
    return digest(
        {
            "ids": table.ids,
            "target": data.target,
            "X": numbers,
            "y": table.y.tolist(),
            "y_error": [None if value != value else value for value in table.y_error.tolist()],
        }
    )


def _said(report: ValidationReport, model: str) -> list[str]:
    """How well the model does beside the practice, a line a split."""
    lines = []
    for name, split in report.splits.items():
        own = split.models[model].scores
        line = f"{_SPLIT_WORDS[name]}: " + ", ".join(
            f"{score} {own[score].score.value:.3g}"
            for score in _SAID
            if own[score].score.value is not None
        )
        practice = split.models.get(report.baseline or "")
        if practice is not None and practice.scores["regret_at_1"].score.value is not None:
            line += f" (by pass@1 alone {practice.scores['regret_at_1'].score.value:.3g})"
        lines.append(f"{line}, n = {split.n_rows}")
    return lines


def _metrics(report: ValidationReport, model: str) -> dict[str, float]:
    """Figures of the model's validation for MLflow, by split."""
    found = {}
    for split, scores in report.splits.items():
        own = scores.models.get(model)
        if own is None:
            continue
        for score, interval in own.scores.items():
            if interval.score.value is not None:
                found[f"{split}/{score}"] = float(interval.score.value)
    return found


def _normal_quantile(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 2)
