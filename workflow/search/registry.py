"""What a search reads from the registry: finished runs, and the value of a trained checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState

from rlready.predictors.search.rungs import foreseen_from
from rlready.predictors.search.space import RecipeSpace
from rlready.predictors.search.trials import (
    PUBLIC,
    RECIPE,
    STOPPED,
    KnownRun,
    WarmStart,
    add_known_runs,
    trials_by_checkpoint,
)
from rlready.predictors.search.values import write_public_values
from rlready.registry.digest import default_cache_dir
from rlready.registry.errors import ConfigError, RlreadyError
from rlready.registry.records import Recipe

if TYPE_CHECKING:
    from optuna.study import Study

    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.registry.outcomes import Outcome
    from rlready.registry.store import StoredCheckpoint
    from rlready.workflow.predict.load import AppliedPredictor

# Trainers round a learning rate to a few digits; one example more or less is the same recipe.
_SAME = 1e-3


@dataclass(frozen=True, kw_only=True)
class RegistryValues:
    """The registry as a search sees it.

    Args:
        store: the registry.
        target: name of the outcome that is searched for; None: the only one.
        predictor: registered name of the predictor, for checkpoints without an outcome.
    """

    store: MlflowStore
    target: str | None
    predictor: str

    def warm_start(self, study: Study, space: RecipeSpace, cost: str | None) -> WarmStart:
        """Enter the registry's runs as finished trials, with their outcome or its prediction.

        Args:
            study: the study that they enter.
            space: its recipes.
            cost: name of its second objective; None: there is one objective.

        Raises:
            ConfigError: if no checkpoint has the target, or several outcomes could be meant.
        """
        recorded, recipes, target = self._runs()
        entered, asked = trials_by_checkpoint(study), _asked_recipes(study)
        revalued = {name for name, trial in entered.items() if PUBLIC in trial.user_attrs}
        left_out: list[tuple[str, str]] = []
        runs: list[KnownRun] = []
        for run in recorded:
            number = None if run.name in entered else _trial_of_recipe(run.recipe, asked)
            if number is None:
                runs.append(run)
            else:
                left_out.append((run.name, f"trial {number} asked for it, and is not told yet"))
        without_outcome: dict[str, Recipe] = {}
        for name, recipe in recipes.items():
            try:
                if name in revalued:
                    without_outcome[name] = recipe
                elif name not in entered and _trial_of_recipe(recipe, asked) is None:
                    space.points(recipe)
                    without_outcome[name] = recipe
            except ConfigError as error:
                left_out.append((name, error.what))
        predicted, unpredictable = self._predicted_runs(without_outcome, target)
        write_public_values(study, [run for run in predicted if run.public])
        runs += predicted
        if cost is not None:
            runs = [_with_cost(run, space, cost) for run in runs]
        entered_now = add_known_runs(study, space, runs)
        return replace(entered_now, left_out=(*entered_now.left_out, *left_out, *unpredictable))

    def measured(self, reference: str, recipe: Recipe) -> KnownRun:
        """Return a checkpoint with its recorded outcome or, if it has none, the predicted one.

        Args:
            reference: registered id or name.
            recipe: the recipe that the checkpoint must have.

        Raises:
            ConfigError: if it was made by another recipe.
            StoreError: if the checkpoint or a predictor is not registered.
        """
        stored = self.store.find(reference)
        checkpoint, target = stored.checkpoint, self.target
        check_match(recipe, checkpoint.recipe, checkpoint.name)
        if stored.outcomes:
            recorded, _, target = self._runs()
            for run in recorded:
                if run.name == checkpoint.id:
                    return run
        runs = self._public_runs({checkpoint.id: recipe}, target)
        if runs is None:
            applied = self._applied_predictor(target)
            rows = [row for row, id_ in enumerate(applied.data.table.ids) if id_ == checkpoint.id]
            runs = [_predicted_run(checkpoint.id, recipe, applied, row) for row in rows], []
        if not runs[0]:
            raise ConfigError(
                f"checkpoint {checkpoint.id[:12]} is not an SFT checkpoint that can be predicted"
            )
        return runs[0][0]

    def of_folder(self, folder: Path) -> str | None:
        """Return the id of the registered checkpoint with the weights in a folder, if any."""
        from rlready.evaluators.checkpoints.folder import folder_fingerprint

        content = folder_fingerprint(folder, default_cache_dir())
        checkpoints = (stored.checkpoint for stored in self.store.checkpoints())
        return next((each.id for each in checkpoints if each.fingerprint == content), None)

    def _runs(self) -> tuple[list[KnownRun], dict[str, Recipe], str | None]:
        """Return runs with an outcome, recipes of checkpoints without one, and the outcome's name.

        If the registry has no outcomes, the name is the given target, or None.
        """
        from rlready.workflow.predict.registry_table import registry_rows

        stored = self.store.checkpoints()
        recipes = {
            each.checkpoint.id: each.checkpoint.recipe
            for each in stored
            if each.checkpoint.kind == "sft" and each.checkpoint.recipe is not None
        }
        if not any(each.outcomes for each in stored):
            return [], recipes, self.target
        table = registry_rows(stored, self.target)
        recorded = []
        for row in table.frame.to_dict("records"):
            name, value = row["checkpoint_id"], row[table.target]
            if name not in recipes or not math.isfinite(value):
                continue
            se = float(row[table.target_error]) if table.target_error else math.nan
            recorded.append(
                KnownRun(
                    name=name,
                    recipe=recipes.pop(name),
                    values=(float(value),),
                    errors=(se,) if math.isfinite(se) else None,
                )
            )
        partial = runs_at_smaller_budgets(stored, table.target, recipes)
        for run in partial:
            del recipes[run.name]
        return [*recorded, *partial], recipes, table.target

    def _predicted_runs(
        self, recipes: Mapping[str, Recipe], target: str | None
    ) -> tuple[list[KnownRun], list[tuple[str, str]]]:
        """Return checkpoints with their prediction, and (id, reason) of those without one."""
        if not recipes:
            return [], []
        try:
            if found := self._public_runs(recipes, target):
                return found
            applied = self._applied_predictor(target)
        except RlreadyError as error:
            return [], [(name, f"it has no outcome, and {error.what}") for name in recipes]
        rows = {name: row for row, name in enumerate(applied.data.table.ids)}
        runs: list[KnownRun] = []
        left_out: list[tuple[str, str]] = []
        for name, recipe in recipes.items():
            if name not in rows:
                left_out.append((name, "it has no outcome, and it cannot be predicted"))
                continue
            assessment = applied.assessed.iloc[rows[name]]
            if assessment["domain"] == "out":
                where = f"out of the predictor's domain: {assessment['reasons']}"
                left_out.append((name, f"it has no outcome, and it is {where}"))
                continue
            runs.append(_predicted_run(name, recipe, applied, rows[name]))
        return runs, left_out

    def _public_runs(
        self, recipes: Mapping[str, Recipe], target: str | None
    ) -> tuple[list[KnownRun], list[tuple[str, str]]] | None:
        """Return checkpoints with their value from public outcomes; None with a predictor."""
        from rlready.workflow.predict.first_day import is_first_day
        from rlready.workflow.search.public import public_runs

        is_first = is_first_day(self.store, self.predictor)
        return public_runs(self.store, target, recipes) if is_first else None

    def _applied_predictor(self, target: str | None) -> AppliedPredictor:
        from rlready.workflow.predict.load import load

        applied = load(self.store, self.predictor)
        if target is not None and applied.data.target != target:
            raise ConfigError(
                f"{self.predictor} predicts {applied.data.target}, the search is for {target}",
                fix="Name another --predictor, or fit one: rlready fit --target ...",
            )
        return applied


def runs_at_smaller_budgets(
    stored: Sequence[StoredCheckpoint], target: str, recipes: Mapping[str, Recipe]
) -> list[KnownRun]:
    """Return checkpoints whose RL was measured at smaller budgets than the target's alone.

    Each gets the value at its largest budget plus the mean gain from there to the target, over the
    checkpoints that have both (at least three); the error is the standard deviation of that gain.
    """
    measured = {each.checkpoint.id: {o.key: o for o in each.outcomes} for each in stored}
    whole = [outcomes for outcomes in measured.values() if target in outcomes]
    runs: list[KnownRun] = []
    for name, recipe in recipes.items():
        for outcome in sorted(measured[name].values(), key=lambda each: -each.budget):
            gains = [
                outcomes[target].value - outcomes[outcome.key].value
                for outcomes in whole
                if outcome.key in outcomes and _is_earlier(outcome, outcomes[target])
            ]
            if end := foreseen_from(outcome.value, gains):
                run = KnownRun(name=name, recipe=recipe, values=(end[0],), errors=(end[1],))
                runs.append(replace(run, is_predicted=True))
                break
    return runs


def _is_earlier(outcome: Outcome, target: Outcome) -> bool:
    """Return whether an outcome is the target's, at a smaller budget of the same RL."""
    same = ("statistic", "budget_unit", "benchmark", "rl_digest")
    is_same = all(getattr(outcome, key) == getattr(target, key) for key in same)
    return is_same and outcome.budget < target.budget


def _predicted_run(name: str, recipe: Recipe, applied: AppliedPredictor, row: int) -> KnownRun:
    posterior = applied.posterior
    sd = float(np.hypot(posterior.row_sd[row], posterior.group_sd[row]))
    value = float(posterior.mean[row])
    return KnownRun(name=name, recipe=recipe, values=(value,), errors=(sd,), is_predicted=True)


def recipe_cost(space: RecipeSpace, recipe: Recipe, cost: str) -> float | None:
    """Return the cost that follows from a recipe: its tokens, or its number of that name."""
    if cost == "tokens":
        tokens = space.tokens(space.points(recipe))
        return None if tokens is None else float(tokens[0])
    number = recipe.extra.get(cost)
    if isinstance(number, bool) or not isinstance(number, int | float):
        return None
    return float(number)


def _with_cost(run: KnownRun, space: RecipeSpace, cost: str) -> KnownRun:
    try:
        number = recipe_cost(space, run.recipe, cost)
    except ConfigError:
        return run  # it is not in the space, which `add_known_runs` reports
    if number is None:
        return replace(run, fault=f"its recipe has no {cost}, which is the search's cost")
    return replace(run, values=(*run.values, number), errors=run.errors and (*run.errors, 0.0))


def _asked_recipes(study: Study) -> dict[int, Recipe]:
    """Return the recipes of running and stopped trials, whose outcomes enter by being told."""
    states = (TrialState.RUNNING, TrialState.PRUNED)
    return {
        trial.number: Recipe.from_dict(trial.user_attrs[RECIPE])
        for trial in study.get_trials(deepcopy=False, states=states)
        if RECIPE in trial.user_attrs
        and (trial.state == TrialState.RUNNING or STOPPED in trial.user_attrs)
    }


def _trial_of_recipe(recipe: Recipe, asked: Mapping[int, Recipe]) -> int | None:
    return next((number for number, one in asked.items() if not differences(one, recipe)), None)


def check_match(asked: Recipe, made_by: Recipe | None, name: str) -> None:
    """Check that a checkpoint was made by the asked recipe.

    Raises:
        ConfigError: if it was not; the message says what differs.
    """
    if made_by is None:
        raise ConfigError(
            f"the registry does not know the recipe of checkpoint {name}",
            fix="Evaluate it with --recipe and the recipe.toml of the trial",
        )
    wanted, actual, keys = asked.to_dict(), made_by.to_dict(), differences(asked, made_by)
    if keys:
        raise ConfigError(
            f"checkpoint {name} was not made by the asked recipe",
            why="; ".join(f"{k}: {wanted[k]!r} was asked, {actual.get(k)!r} made" for k in keys),
            fix="Tell the checkpoint of this trial, or give its value with --value",
        )


def differences(asked: Recipe, made_by: Recipe) -> list[str]:
    """Return the asked fields that differ; numbers may differ by a trainer's rounding."""
    wanted, actual = asked.to_dict(), made_by.to_dict()
    return [key for key in wanted if not _is_same(key, wanted[key], actual.get(key))]


def _is_same(key: str, wanted: Any, actual: Any) -> bool:
    if key == "sources":
        weights: Mapping[str, float] = actual or {}
        names = {*wanted, *weights}
        return all(abs(wanted.get(n, 0.0) - weights.get(n, 0.0)) <= _SAME for n in names)
    numbers = (int, float)
    if isinstance(wanted, numbers) and isinstance(actual, numbers):
        return math.isclose(wanted, actual, rel_tol=_SAME)
    return bool(wanted == actual)
