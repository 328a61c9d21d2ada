"""Evaluates what a trial trained, so that the registry knows it and a predictor can value it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
from rlready.workflow.progress import Clock
from rlready.workflow.search.folder import recipe_toml, write_text

if TYPE_CHECKING:
    from rlready.workflow.search.open import Search

_HOW_TO_ADD = (
    'Add to the space file: [evaluate] with for example held_out = ["val.jsonl"], benchmarks = '
    '["gsm8k=gsm8k.jsonl"], samples = 64. Or evaluate it: rlready evaluate {} --recipe {}'
)


def registered(
    search: Search, trial: Path, recipe: Recipe, reference: str, *, evaluate: bool
) -> str:
    """The registered id or name of a trial's checkpoint, which is evaluated if it has none yet.

    Args:
        search: with a registry.
        trial: its folder.
        recipe: that the checkpoint was trained by.
        reference: registered id or name, or a folder, from here or below the trial's own.
        evaluate: whether it may be evaluated now.

    Raises:
        ConfigError: if it is a folder that is not registered, and it cannot be evaluated now.
        RlreadyError: from the evaluation; what it has made so far stays.
    """
    assert search.registry is not None
    folder = next((path for path in (Path(reference), trial / reference) if path.is_dir()), None)
    if folder is None:
        return reference
    checkpoint_id = search.registry.of_folder(folder)
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
    store = search.registry.store
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
