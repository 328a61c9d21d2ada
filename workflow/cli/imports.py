"""The sub-commands `import` and `export`."""

from __future__ import annotations

from pathlib import Path

from rlready.registry.errors import ConfigError
from rlready.workflow.flags import CommonFlags, command
from rlready.workflow.importers.config import ImportConfig


@command
def import_results(config: ImportConfig, common: CommonFlags) -> None:
    """Read what a trainer or another evaluation tool wrote at PATH.

    TOOL is verl, trl, prime-rl, nemo-rl, skyrl, areal, open-instruct, ms-swift, openrlhf, slime,
    tinker, lm-eval, lighteval, inspect or table; auto finds it by the content of the files, and
    registry reads what `rlready export` wrote.

    Samples give exact counts: pass@k is computed again with its standard errors, and rlready checks
    the texts itself. Trainers that only log numbers give a curve. Samples of step 0, or of an
    evaluation, become proxies of the checkpoint; later steps become an outcome of RL.

    \b
    rlready import lm-eval results/ --checkpoint sft-3
    rlready import verl run/val_generations --checkpoint sft-3 --map val_generations=math500
    rlready import auto run/
    rlready import registry backup/
    """  # noqa: D301 - click reads \b as "keep these lines", which are commands
    if config.tool == "registry":
        from rlready.workflow.importers.registry_files import read_registry

        if config.checkpoint is not None:
            raise ConfigError(
                "--checkpoint is given with import registry",
                why="an export names its checkpoints itself",
                fix="Leave it out",
            )
        counts = read_registry(config.path, common.open_store())
        common.show(counts.to_dict(), lambda: [counts.line("read")])
        return
    from rlready.workflow.cli.views.imports import import_view
    from rlready.workflow.importers.reading import read
    from rlready.workflow.importers.report import report_dict
    from rlready.workflow.importers.storing import store_reading

    store = None if config.checkpoint is None else common.open_store()
    if store is not None and config.checkpoint is not None:
        store.find(config.checkpoint)  # before the files are read, which may take a minute
    common.clock().say(f"Reading {config.path}")
    reading = read(config.tool, config.path, config.how)
    report = store_reading(config, reading, store)
    common.show(report_dict(report), lambda: import_view(report))


@command
def export_registry(path: Path, *, common: CommonFlags) -> None:
    """Write the registry into the new folder PATH, as Parquet and JSON.

    Every checkpoint, evaluation, proxy and outcome is written, with the outcomes that others
    replace. `rlready import registry PATH` reads it into another registry, with the same ids.
    Weights, samples, fitted predictors and readiness tags are not part of it.
    """
    from rlready.workflow.importers.registry_files import write_registry

    counts = write_registry(path, common.open_store())
    common.show(counts.to_dict(), lambda: [f"{counts.line('wrote')}: {path}"])
