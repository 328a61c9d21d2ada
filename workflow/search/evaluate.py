"""Evaluate the checkpoint of a trial, so that it has a recorded or predicted outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlready.predictors.search.trials import KnownRun
from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.progress import Clock
from rlready.workflow.search.folder import recipe_toml, write_text

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.store import MlflowStore
    from rlready.workflow.search.open import Search

_HOW_TO_ADD = (
    'Add to the space file: [evaluate] with for example held_out = ["val.jsonl"], benchmarks = '
    '["gsm8k=gsm8k.jsonl"], samples = 64. Or evaluate it: rlready evaluate {} --recipe {}'
)


def measured_checkpoint(
    search: Search, trial: Path, recipe: Recipe, reference: str, *, evaluate: bool
) -> KnownRun:
    """Return a trial's checkpoint with its outcome, which is evaluated first if not registered.

    Args:
        search: the open search.
        trial: folder of the trial.
        recipe: recipe that the checkpoint was trained by.
        reference: registered id or name, or a folder: relative to the working directory or to the
            trial's own folder.
        evaluate: whether it may be evaluated now.

    Raises:
        ConfigError: if the search does not read the registry, if it is a folder that is not
            registered and cannot be evaluated now, or if another recipe made the checkpoint.
        RlreadyError: from the evaluation; the samples and scores so far are kept.
    """
    registry = search.registry
    if registry is None:
        raise ConfigError(
            f"checkpoint {reference} has no value without the registry",
            fix="Leave --cold out, or give --value",
        )
    folder = next((path for path in (Path(reference), trial / reference) if path.is_dir()), None)
    if folder is not None:
        reference = registry.of_folder(folder) or _evaluated(
            search, registry.store, trial, recipe, folder, evaluate=evaluate
        )
    return registry.measured(reference, recipe)


def _evaluated(
    search: Search, store: MlflowStore, trial: Path, recipe: Recipe, folder: Path, *, evaluate: bool
) -> str:
    """Evaluate a trained folder and return the id of its checkpoint."""
    from rlready.workflow.evaluate.evaluator import evaluate_checkpoint

    recipe_file = trial / "recipe.toml"
    if search.evaluate is None:
        raise ConfigError(
            f"the checkpoint in {folder} is not registered",
            fix=_HOW_TO_ADD.format(folder, recipe_file),
        )
    if not evaluate:
        raise ConfigError(
            f"the checkpoint in {folder} is not evaluated yet", fix="Do it: rlready search sync"
        )
    if not recipe_file.is_file():
        trial.mkdir(parents=True, exist_ok=True)
        write_text(recipe_file, recipe_toml(recipe))
    config = EvaluateConfig(
        checkpoint=str(folder),
        recipe=recipe_file,
        name=f"{search.name}-{trial.name}",
        kind="sft",
        experiment=store.experiment,
        tracking_uri=store.tracking_uri,
        **search.evaluate,
    )
    # Each checkpoint gets a clock, because its record holds the times of its own stages.
    clock = Clock(None if search.progress is None else search.progress.console)
    return evaluate_checkpoint(config, store, clock).evaluation.checkpoint.id
