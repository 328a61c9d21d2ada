r"""The testbed as the trainer of a recipe search: one recipe is trained, measured and registered.

    rlready testbed --profile small --out T
    rlready fit --target value_at_budget/60steps@world_after
    rlready search run --space T/inputs/space.toml --target value_at_budget/60steps@world_after \
        --train-command "python -m rlready.workflow.testbed.trainer --recipe {recipe} --out {out} \
        --testbed T"

The stages and folders are those of a testbed run, so existing results are reused. The checkpoint
is registered like any other, for the search and `rlready rank`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from rlready.registry.errors import ConfigError
from rlready.registry.failures import EXIT_FAULT, EXIT_USAGE, fault, foreseen
from rlready.workflow.flags import CommonFlags, Flag, command
from rlready.workflow.progress import Clock
from rlready.workflow.terminal import echo

if TYPE_CHECKING:
    from rlready.registry.store import Store
    from rlready.testbed.study.design import Design
    from rlready.testbed.study.run import Made
    from rlready.testbed.training.sft import SftRecipe

OnStage = Callable[[str, float], None]

_FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Result of training a recipe.

    Args:
        made: checkpoint, proxies and RL runs.
        folder: folder of the checkpoint after SFT.
        cpu_seconds: CPU seconds of this call by stage; 0 if an existing result was reused.
    """

    made: Made
    folder: Path
    cpu_seconds: dict[str, float]


def design_of(testbed: Path, profile: str | None) -> Design:
    """Return the design of the testbed run in a folder; in a new folder, start a run.

    Raises:
        ConfigError: if the profile is unknown, or the folder holds a run of another profile.
    """
    from rlready.testbed.study.design import make_design, read_design, write_design

    if (testbed / "design.json").is_file():
        design = read_design(testbed)
        if profile not in (None, design.profile_name):
            raise ConfigError(
                f"{testbed} holds a run of profile {design.profile_name}, {profile} is asked for",
                why="its proxies were measured in another way",
                fix="Leave --profile out, or name another --testbed",
            )
        current = make_design(design.profile_name, design.seed, 1)
        if dict(current.versions) != dict(design.versions):
            raise ConfigError(
                f"{testbed} was made by other versions: {dict(design.versions)}",
                why="what is trained now could not be compared with it",
                fix="Name another --testbed",
            )
        return design
    design = make_design(profile or "small", 0, 1)
    write_design(testbed, design)
    return design


def train(
    recipe: SftRecipe,
    testbed: Path,
    design: Design,
    store: Store,
    *,
    rl_seeds: tuple[int, ...] = (),
    named: Mapping[str, Any] | None = None,
    on_stage: OnStage = lambda stage, cpu_seconds: None,
) -> Trained:
    """Train, measure and register a recipe; then run GRPO and record the outcomes.

    The checkpoint is registered before RL starts, so that RL may fail and be run again. A stage
    that fails registers nothing.

    Args:
        recipe: what to train.
        testbed: folder of a testbed run.
        design: design of that run; its recipes are ignored.
        store: the registry.
        rl_seeds: seeds of GRPO, one run each; empty: no RL.
        named: settings that the registered recipe names even where they have their default.
        on_stage: called with each finished stage and the CPU seconds that it took now.
    """
    from rlready.testbed.study.design import BASE
    from rlready.testbed.study.run import collect, register
    from rlready.testbed.study.unit import measure_unit, run_unit, sft_folder
    from rlready.testbed.training.base import shipped_base

    spent: dict[str, float] = {}

    def finished(stage: str, cpu_seconds: float) -> None:
        spent[stage] = spent.get(stage, 0.0) + cpu_seconds
        on_stage(stage, cpu_seconds)

    base = shipped_base()
    measure_unit(testbed, base, BASE, design.profile, lambda stage, s: finished("base", s))
    made: list[Made] = []
    for seeds in dict.fromkeys(((), rl_seeds)):
        profile = dataclasses.replace(design.profile, rl_seeds=seeds)
        one = dataclasses.replace(design, recipes=(recipe,), profile=profile)
        run_unit(testbed, base, recipe, profile, finished)
        made = [_naming(entry, named or {}) for entry in collect(testbed, one)]
        register(testbed, one, made, store, Clock())
    return Trained(made=made[0], folder=sft_folder(testbed, recipe), cpu_seconds=spent)


def _naming(made: Made, named: Mapping[str, Any]) -> Made:
    """Return results whose recipe names these settings too; a search needs a value of each axis."""
    recipe = made.checkpoint.recipe
    assert recipe is not None
    recipe = dataclasses.replace(recipe, extra={**named, **recipe.extra})
    checkpoint = dataclasses.replace(made.checkpoint, recipe=recipe)
    return dataclasses.replace(made, checkpoint=checkpoint)


@command
def main(
    *,
    recipe: Annotated[Path, Flag(metavar="FILE.toml")],
    out: Annotated[Path, _FOLDER, Flag(metavar="DIR")],
    testbed: Annotated[Path, _FOLDER, Flag(metavar="DIR")],
    profile: Annotated[str | None, Flag(metavar="NAME")] = None,
    rl: Annotated[int, click.IntRange(0), Flag(metavar="N")] = 0,
    common: CommonFlags,
) -> None:
    """Train a recipe on the testbed, measure it and register it, as --train-command of a search.

    A repeated call reuses existing results; with --rl it continues with GRPO from the same
    checkpoint.

    Args:
        recipe: Recipe of the trial.
        out: Folder of the trial; the checkpoint is added to its status.json.
        testbed: Folder of a testbed run, for checkpoints, proxies and RL runs, which are measured
            in the same way as in that run. In a new folder, a run is started.
        profile: Size of the run in a new folder: smoke, small, full, long or headroom.
            [default: small]
        rl: Number of seeds to run GRPO with; the outcomes are recorded.
        common: The registry and the form of the output.
    """
    try:
        result = _run(recipe, out, testbed, profile, rl, common.open_store())
    except Exception as error:
        line = foreseen(error)
        echo(f"error: {line or fault(error)}", err=True)
        sys.exit(EXIT_FAULT if line is None else EXIT_USAGE)
    if common.as_json:
        echo(json.dumps(result))


def _run(
    recipe: Path,
    out: Path,
    testbed: Path,
    profile: str | None,
    n_seeds: int,
    store: Store,
) -> dict[str, Any]:
    from rlready.testbed.study.run import base_checkpoint
    from rlready.testbed.training.sft import KNOBS, SftRecipe
    from rlready.workflow.evaluate.config import load_recipe
    from rlready.workflow.search.folder import write_status

    record = load_recipe(recipe)
    sft_recipe = SftRecipe.from_record(record)
    design = design_of(testbed, profile)
    store.check(base_checkpoint())
    trained = train(
        sft_recipe,
        testbed,
        design,
        store,
        rl_seeds=tuple(range(n_seeds)),
        named={name: getattr(sft_recipe, name) for name in KNOBS if name in record.extra},
        on_stage=lambda stage, seconds: echo(
            f"{stage}: {f'{seconds:.1f} CPU-s' if seconds else 'reused'}", err=True
        ),
    )
    made = trained.made
    write_status(out, checkpoint=made.checkpoint.id)
    scores = {
        str(seed): run.mean_at(design.profile.grpo.n_steps) for seed, run in made.runs.items()
    }
    return {
        "checkpoint": made.checkpoint.id,
        "folder": str(trained.folder),
        "cpu_seconds": trained.cpu_seconds,
        "after_rl": scores,
    }


if __name__ == "__main__":
    main()
