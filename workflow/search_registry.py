"""What the registry tells a search: runs to begin with, and the value of a trained checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.predictors.search import KnownRun
from rlready.registry.errors import ConfigError

if TYPE_CHECKING:
    from rlready.registry.mlflow_store import MlflowStore
    from rlready.registry.records import Recipe
    from rlready.registry.store import StoredCheckpoint

# Trainers round: a learning rate is printed with a few digits, an example more or less is no other
# recipe.
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

    def known_runs(self) -> list[KnownRun]:
        """Every SFT checkpoint with a recipe and the recorded outcome.

        None where the registry holds no outcome at all and no target is named.

        Raises:
            ConfigError: if there is no such outcome, or the target has to be named.
        """
        from rlready.workflow.training import registry_rows

        stored = self.store.checkpoints()
        if self.target is None and not any(one.outcomes for one in stored):
            return []
        found = registry_rows(self.store, self.target)
        recipes = {one.checkpoint.id: one.checkpoint.recipe for one in stored}
        runs = []
        for row in found.frame.to_dict("records"):
            recipe, value = recipes.get(row["checkpoint_id"]), row[found.target]
            if recipe is None or row["kind"] != "sft" or not math.isfinite(value):
                continue
            se = float(row[found.target_error]) if found.target_error else math.nan
            runs.append(
                KnownRun(
                    name=row["checkpoint_id"],
                    recipe=recipe,
                    values=(float(value),),
                    errors=(se,) if math.isfinite(se) else None,
                )
            )
        return runs

    def measured(self, reference: str, asked: Recipe) -> Measured:
        """The recorded outcome of a checkpoint made by the asked recipe, or else the predicted.

        Args:
            reference: registered id or name, or the folder of the weights.
            asked: the recipe that it has to have.

        Raises:
            ConfigError: if it was made by another recipe.
            StoreError: if it, or a predictor, is not registered.
        """
        stored = self.find(reference)
        check_match(asked, stored.checkpoint.recipe, stored.checkpoint.name)
        runs = self.known_runs() if stored.outcomes else []
        recorded = next((run for run in runs if run.name == stored.checkpoint.id), None)
        if recorded is not None:
            return Measured(
                checkpoint_id=stored.checkpoint.id,
                value=recorded.values[0],
                se=None if recorded.errors is None else recorded.errors[0],
                is_predicted=False,
            )
        return self._predicted(stored.checkpoint.id)

    def _predicted(self, checkpoint_id: str) -> Measured:
        from rlready.workflow.predict import load

        loaded = load(self.store, self.predictor)
        if self.target is not None and loaded.data.target != self.target:
            raise ConfigError(
                f"{self.predictor} predicts {loaded.data.target}, the search is for {self.target}",
                fix="Name another --predictor, or fit one: rlready fit --target ...",
            )
        ids, posterior = loaded.data.table.ids, loaded.posterior
        if checkpoint_id not in ids:
            raise ConfigError(
                f"checkpoint {checkpoint_id[:12]} is no SFT checkpoint that can be predicted"
            )
        row = ids.index(checkpoint_id)
        return Measured(
            checkpoint_id=checkpoint_id,
            value=float(posterior.mean[row]),
            se=float(np.hypot(posterior.row_sd[row], posterior.group_sd[row])),
            is_predicted=True,
        )

    def find(self, reference: str) -> StoredCheckpoint:
        """A checkpoint by its registered id or name, or the folder of its weights.

        Raises:
            ConfigError: if the folder's is not registered.
            StoreError: if there is no such one.
        """
        folder = Path(reference)
        if not folder.is_dir():
            return self.store.find(reference)
        from rlready.registry.digest import default_cache_dir, fingerprint

        content = fingerprint(folder, default_cache_dir())
        for stored in self.store.checkpoints():
            if stored.checkpoint.fingerprint == content:
                return stored
        raise ConfigError(
            f"the checkpoint in {folder} is not registered",
            fix=f"Evaluate it: rlready evaluate {folder} --recipe .../recipe.toml",
        )


def check_match(asked: Recipe, made_by: Recipe | None, name: str) -> None:
    """Raise ConfigError, with what differs, if a checkpoint was not made by the asked recipe."""
    if made_by is None:
        raise ConfigError(
            f"the registry does not know the recipe of checkpoint {name}",
            fix="Evaluate it with --recipe and the recipe.toml of the trial",
        )
    wanted, found = asked.to_dict(), made_by.to_dict()
    different = [key for key in wanted if not _is_same(key, wanted[key], found.get(key))]
    if different:
        said = "; ".join(f"{k}: {wanted[k]!r} was asked, {found.get(k)!r} made" for k in different)
        raise ConfigError(
            f"checkpoint {name} was not made by the asked recipe",
            why=said,
            fix="Tell the checkpoint of this trial, or give its value with --value",
        )


def _is_same(key: str, wanted: Any, found: Any) -> bool:
    if key == "sources":
        weights: Mapping[str, float] = found or {}
        names = {*wanted, *weights}
        return all(abs(wanted.get(n, 0.0) - weights.get(n, 0.0)) <= _SAME for n in names)
    numbers = (int, float)
    if isinstance(wanted, numbers) and isinstance(found, numbers):
        return math.isclose(wanted, found, rel_tol=_SAME)
    return bool(wanted == found)
