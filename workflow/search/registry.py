"""What the registry tells a search: runs to begin with, and the value of a trained checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.search.study import KnownRun
from rlready.registry.errors import ConfigError, RlreadyError

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.registry.records import Recipe
    from rlready.workflow.predict.load import AppliedPredictor

# Trainers round a learning rate to a few digits; one example more or less is the same recipe.
_SAME = 1e-3


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The value of a checkpoint.

    Args:
        checkpoint_id: of the registry.
        value: recorded or predicted outcome.
        se: its standard error or standard deviation, if known.
        is_predicted: whether RL was not run from it.
    """

    checkpoint_id: str
    value: float
    se: float | None
    is_predicted: bool


@dataclass(frozen=True, kw_only=True)
class RegistryRuns:
    """The registry's SFT checkpoints that have a recipe.

    Args:
        recorded: with the outcome.
        open: recipes, by id, of those without.
        target: the outcome; None if the registry holds none.
    """

    recorded: tuple[KnownRun, ...]
    open: Mapping[str, Recipe]
    target: str | None


@dataclass(frozen=True, kw_only=True)
class RegistryValues:
    """The registry as a search sees it.

    Args:
        store: the registry.
        target: outcome that is searched for; None: the only one.
        predictor: registered name of what foresees it.
    """

    store: MlflowStore
    target: str | None
    predictor: str

    def runs(self) -> RegistryRuns:
        """The SFT checkpoints with a recipe, those with the outcome and those without.

        Without a target and without any outcome in the registry none has one.

        Raises:
            ConfigError: if there is no such outcome, or the target has to be named.
        """
        from rlready.workflow.predict.registry_table import registry_rows

        stored = self.store.checkpoints()
        recipes = {
            one.checkpoint.id: one.checkpoint.recipe
            for one in stored
            if one.checkpoint.kind == "sft" and one.checkpoint.recipe is not None
        }
        if self.target is None and not any(one.outcomes for one in stored):
            return RegistryRuns(recorded=(), open=recipes, target=None)
        found = registry_rows(stored, self.target)
        recorded = []
        for row in found.frame.to_dict("records"):
            name, value = row["checkpoint_id"], row[found.target]
            if name not in recipes or not math.isfinite(value):
                continue
            se = float(row[found.target_error]) if found.target_error else math.nan
            recorded.append(
                KnownRun(
                    name=name,
                    recipe=recipes.pop(name),
                    values=(float(value),),
                    errors=(se,) if math.isfinite(se) else None,
                )
            )
        return RegistryRuns(recorded=tuple(recorded), open=recipes, target=found.target)

    def foreseen(
        self, recipes: Mapping[str, Recipe], target: str | None
    ) -> tuple[list[KnownRun], list[tuple[str, str]]]:
        """What the predictor says of checkpoints without outcome; and (id, why not) of the others.

        Args:
            recipes: how each was made, by id.
            target: the outcome that is searched for.
        """
        if not recipes:
            return [], []
        try:
            loaded = self._loaded(target)
        except RlreadyError as error:
            return [], [(name, f"it has no outcome, and {error.what}") for name in recipes]
        rows = {name: row for row, name in enumerate(loaded.data.table.ids)}
        runs: list[KnownRun] = []
        left_out: list[tuple[str, str]] = []
        for name, recipe in recipes.items():
            if name not in rows:
                left_out.append((name, "it has no outcome, and it cannot be predicted"))
                continue
            said = loaded.assessed.iloc[rows[name]]
            if said["domain"] == "out":
                where = f"out of the predictor's domain: {said['reasons']}"
                left_out.append((name, f"it has no outcome, and it is {where}"))
                continue
            value, sd = _mean_and_sd(loaded, rows[name])
            runs.append(
                KnownRun(name=name, recipe=recipe, values=(value,), errors=(sd,), is_predicted=True)
            )
        return runs, left_out

    def measured(self, reference: str, asked: Recipe) -> Measured:
        """The recorded outcome of a checkpoint made by the asked recipe, or else the predicted.

        Args:
            reference: registered id or name.
            asked: the recipe that it has to have.

        Raises:
            ConfigError: if it was made by another recipe.
            StoreError: if it, or a predictor, is not registered.
        """
        stored = self.store.find(reference)
        check_match(asked, stored.checkpoint.recipe, stored.checkpoint.name)
        found = self.runs() if stored.outcomes else None
        runs = found.recorded if found else ()
        recorded = next((run for run in runs if run.name == stored.checkpoint.id), None)
        if recorded is not None:
            return Measured(
                checkpoint_id=stored.checkpoint.id,
                value=recorded.values[0],
                se=None if recorded.errors is None else recorded.errors[0],
                is_predicted=False,
            )
        return self._predicted(stored.checkpoint.id, found.target if found else self.target)

    def _loaded(self, target: str | None) -> AppliedPredictor:
        from rlready.workflow.predict.load import load

        loaded = load(self.store, self.predictor)
        if target is not None and loaded.data.target != target:
            raise ConfigError(
                f"{self.predictor} predicts {loaded.data.target}, the search is for {target}",
                fix="Name another --predictor, or fit one: rlready fit --target ...",
            )
        return loaded

    def _predicted(self, checkpoint_id: str, target: str | None) -> Measured:
        loaded = self._loaded(target)
        ids = loaded.data.table.ids
        if checkpoint_id not in ids:
            raise ConfigError(
                f"checkpoint {checkpoint_id[:12]} is not an SFT checkpoint that can be predicted"
            )
        value, sd = _mean_and_sd(loaded, ids.index(checkpoint_id))
        return Measured(checkpoint_id=checkpoint_id, value=value, se=sd, is_predicted=True)

    def of_folder(self, folder: Path) -> str | None:
        """Id of the registered checkpoint whose weights lie in a folder; None if there is none."""
        from rlready.registry.digest import default_cache_dir, fingerprint

        content = fingerprint(folder, default_cache_dir())
        found = (one.checkpoint for one in self.store.checkpoints())
        return next((one.id for one in found if one.fingerprint == content), None)


def _mean_and_sd(loaded: AppliedPredictor, row: int) -> tuple[float, float]:
    posterior = loaded.posterior
    return float(posterior.mean[row]), float(
        np.hypot(posterior.row_sd[row], posterior.group_sd[row])
    )


def check_match(asked: Recipe, made_by: Recipe | None, name: str) -> None:
    """Raise ConfigError, with what differs, if a checkpoint was not made by the asked recipe."""
    if made_by is None:
        raise ConfigError(
            f"the registry does not know the recipe of checkpoint {name}",
            fix="Evaluate it with --recipe and the recipe.toml of the trial",
        )
    wanted, found, different = asked.to_dict(), made_by.to_dict(), differences(asked, made_by)
    if different:
        said = "; ".join(f"{k}: {wanted[k]!r} was asked, {found.get(k)!r} made" for k in different)
        raise ConfigError(
            f"checkpoint {name} was not made by the asked recipe",
            why=said,
            fix="Tell the checkpoint of this trial, or give its value with --value",
        )


def differences(asked: Recipe, made_by: Recipe) -> list[str]:
    """What was asked for and made otherwise; numbers may differ by a trainer's rounding."""
    wanted, found = asked.to_dict(), made_by.to_dict()
    return [key for key in wanted if not _is_same(key, wanted[key], found.get(key))]


def _is_same(key: str, wanted: Any, found: Any) -> bool:
    if key == "sources":
        weights: Mapping[str, float] = found or {}
        names = {*wanted, *weights}
        return all(abs(wanted.get(n, 0.0) - weights.get(n, 0.0)) <= _SAME for n in names)
    numbers = (int, float)
    if isinstance(wanted, numbers) and isinstance(found, numbers):
        return math.isclose(wanted, found, rel_tol=_SAME)
    return bool(wanted == found)
