"""Evaluates what a trial trained, so that the registry knows it and a predictor can value it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlready.registry.errors import ConfigError
from rlready.registry.records import Recipe
from rlready.workflow.search.folder import recipe_toml, trial_folder, write_text

if TYPE_CHECKING:
    from rlready.workflow.search.open import Search

_HOW_TO_ADD = (
    'Add to the space file: [evaluate] with for example held_out = ["val.jsonl"], benchmarks = '
    '["gsm8k=gsm8k.jsonl"], samples = 64. Or evaluate it: rlready evaluate {} --recipe {}'
)


def registered(search: Search, number: int, asked: Recipe, reference: str) -> str:
    """What the registry knows a trial's checkpoint by; a folder that it does not know is evaluated.

    Args:
        search: with a registry.
        number: of the trial.
        asked: the recipe that it was trained by.
        reference: registered id or name, or a folder, from here or below the trial's own.

    Raises:
        ConfigError: if it is a folder that is not registered, and nobody may evaluate it now.
        RlreadyError: whatever an evaluation raises; what it has made so far stays.
    """
    assert search.registry is not None
    own = trial_folder(search.root, number)
    folder = next((path for path in (Path(reference), own / reference) if path.is_dir()), None)
    if folder is None:
        return reference
    known = search.registry.of_folder(folder)
    if known is not None:
        return known
    if search.settings.evaluate is None:
        raise ConfigError(
            f"the checkpoint in {folder} is not registered",
            fix=_HOW_TO_ADD.format(folder, own / "recipe.toml"),
        )
    if not search.may_evaluate:
        raise ConfigError(
            f"the checkpoint in {folder} is not evaluated yet", fix="Do it: rlready search sync"
        )
    return _evaluated(search, number, asked, folder)


def _evaluated(search: Search, number: int, asked: Recipe, folder: Path) -> str:
    from rlready.workflow.evaluate.config import EvaluateConfig
    from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
    from rlready.workflow.progress import Clock

    assert search.registry is not None
    store, own = search.registry.store, trial_folder(search.root, number)
    recipe = own / "recipe.toml"
    if not recipe.is_file():
        own.mkdir(parents=True, exist_ok=True)
        write_text(recipe, recipe_toml(asked))
    config = EvaluateConfig(
        checkpoint=str(folder),
        recipe=recipe,
        name=f"{search.study.study_name}-{own.name}",
        kind="sft",
        experiment=store.experiment,
        tracking_uri=store.tracking_uri,
        **(search.settings.evaluate or {}),
    )
    # It may take longer than a lease.
    search.leases.extend(number, search.leases.clock())
    # Stages are timed for each checkpoint alone.
    clock = Clock(None if search.progress is None else search.progress.console)
    return evaluate_checkpoint(config, store, clock).evaluation.checkpoint.id
