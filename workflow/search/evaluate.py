"""Evaluate the checkpoint of a trial, so that the registry or a predictor has a value for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.progress import Clock
from rlready.workflow.search.folder import recipe_toml, write_text
from rlready.workflow.search.registry import Measured, RegistryValues

if TYPE_CHECKING:
    from rlready.workflow.search.open import Search

_HOW_TO_ADD = (
    'Add to the space file: [evaluate] with for example held_out = ["val.jsonl"], benchmarks = '
    '["gsm8k=gsm8k.jsonl"], samples = 64. Or evaluate it: rlready evaluate {} --recipe {}'
)


def measured_checkpoint(
    search: Search, trial: Path, recipe: Recipe, reference: str, *, evaluate: bool
) -> Measured:
    """Return the value of a trial's checkpoint, which is evaluated first if it is not registered.

    Args:
        search: the open search.
        trial: folder of the trial.
        recipe: recipe that the checkpoint was trained by.
        reference: registered id or name, or a folder: relative to the working directory or to the
            trial's own folder.
        evaluate: whether it may be evaluated now.

    Raises:
        ConfigError: if the search has no registry, if it is a folder that is not registered and
            cannot be evaluated now, or if the checkpoint was made by another recipe.
        RlreadyError: from the evaluation; the samples and scores so far are kept.
    """
    if search.registry is None:
        raise ConfigError(
            f"checkpoint {reference} has no value without the registry",
            fix="Leave --cold out, or give --value",
        )
    reference = _registered(search, search.registry, trial, recipe, reference, evaluate)
    return search.registry.measured(reference, recipe)


def _registered(
    search: Search,
    registry: RegistryValues,
    trial: Path,
    recipe: Recipe,
    reference: str,
    evaluate: bool,
) -> str:
    folder = next((path for path in (Path(reference), trial / reference) if path.is_dir()), None)
    if folder is None:
        return reference
    checkpoint_id = registry.of_folder(folder)
    if checkpoint_id is not None:
        return checkpoint_id
    if search.settings.evaluate is None:
        raise ConfigError(
            f"the checkpoint in {folder} is not registered",
            fix=_HOW_TO_ADD.format(folder, trial / "recipe.toml"),
        )
    if not evaluate:
        raise ConfigError(
            f"the checkpoint in {folder} is not evaluated yet", fix="Do it: rlready search sync"
        )
    recipe_file = trial / "recipe.toml"
    if not recipe_file.is_file():
        trial.mkdir(parents=True, exist_ok=True)
        write_text(recipe_file, recipe_toml(recipe))
    store = registry.store
    config = EvaluateConfig(
        checkpoint=str(folder),
        recipe=recipe_file,
        name=f"{search.config.name}-{trial.name}",
        kind="sft",
        experiment=store.experiment,
        tracking_uri=store.tracking_uri,
        **search.settings.evaluate,
    )
    # Stages are timed for each checkpoint alone.
    clock = Clock(None if search.progress is None else search.progress.console)
    return evaluate_checkpoint(config, store, clock).evaluation.checkpoint.id
