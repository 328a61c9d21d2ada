"""The sub-command `evaluate`: measure one checkpoint or several."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import click

from rlready.registry.errors import ConfigError
from rlready.registry.failures import EXIT_FAULT, EXIT_USAGE
from rlready.workflow.evaluate.config import EvaluateConfig
from rlready.workflow.flags import CommonFlags, Flag, command, split_paths
from rlready.workflow.terminal import echo, print_view, text_width


@command
def evaluate(
    checkpoint: Annotated[tuple[str, ...], Flag(split=split_paths)] = (),
    *,
    list_file: Annotated[Path | None, Flag("--list", metavar="FILE")] = None,
    jobs: int = 1,
    show_held_out: Annotated[int, Flag(metavar="N")] = 0,
    config: partial[EvaluateConfig],
    common: CommonFlags,
) -> None:
    """Measure each CHECKPOINT and log its proxies to MLflow.

    CHECKPOINT is a folder written by save_pretrained (safetensors only), or a hub id
    org/name[@revision]. A killed or repeated call continues where the last one stopped. Several
    checkpoints are all checked before the first is measured, and one that fails does not stop the
    others.

    \b
    rlready evaluate runs/sft-3 --held-out val.jsonl --samples 256
    rlready evaluate runs/sft-3 --benchmark gsm8k=gsm8k_test.jsonl.gz --samples 64 --k 1,16,64
    rlready evaluate runs/sft-1 runs/sft-2 runs/sft-3 --engine ray

    Args:
        checkpoint: Checkpoints to measure.
        list_file: TOML file with a table [[checkpoint]] for each further checkpoint: checkpoint,
            and optionally name, recipe, step, kind, parents, held_out, base, prompt_template.
        jobs: Checkpoints that are measured at the same time; they share the GPUs, or the Ray
            cluster, evenly.
        show_held_out: First print N examples of each held-out set, with the scored tokens marked,
            as the first checkpoint's tokenizer reads them.
        config: The flags of each checkpoint.
        common: The registry and the form of the output.
    """  # noqa: D301 - click reads \b as "keep these lines"
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}", fix="Give 1 or more")
    if show_held_out < 0:
        raise ConfigError(f"--show-held-out is {show_held_out}", fix="Give 1 or more")
    if list_file is not None or len(checkpoint) > 1:
        _evaluate_many(checkpoint, list_file, jobs, show_held_out, config, common)
        return
    if not checkpoint:
        raise ConfigError("no checkpoint is named", fix="Name a folder, a hub id, or --list FILE")
    # These load numpy or rich, which `--help` does without.
    from rlready.workflow.cli.views.evaluate import evaluation_view
    from rlready.workflow.evaluate.evaluator import evaluate_checkpoint

    resolved, store = config(checkpoint=checkpoint[0]), common.open_store()
    shown = _shown_held_out(resolved, show_held_out, common)
    report = evaluate_checkpoint(resolved, store, common.clock())
    common.show({**report.to_dict(), **shown}, lambda: evaluation_view(report, text_width()))
    if not common.as_json:
        echo(store.ui_hint())


def _shown_held_out(config: EvaluateConfig, n: int, common: CommonFlags) -> dict[str, Any]:
    """Print n examples of each held-out set; with `--json`, return them instead."""
    if not n:
        return {}
    from rlready.workflow.cli.views.heldout import heldout_view
    from rlready.workflow.evaluate.heldout_preview import shown_examples

    examples = shown_examples(config, n)
    if common.as_json:
        return {"shown_held_out": [example.to_dict() for example in examples]}
    print_view(heldout_view(examples))
    return {}


def _evaluate_many(
    checkpoints: tuple[str, ...],
    list_file: Path | None,
    n_jobs: int,
    n_shown: int,
    config: partial[EvaluateConfig],
    common: CommonFlags,
) -> None:
    from rlready.workflow.cli.views.evaluate import evaluations_view
    from rlready.workflow.evaluate.checkpoint_list import read_list
    from rlready.workflow.evaluate.many import evaluate_many

    if config.keywords["name"] is not None:
        raise ConfigError(
            f"--name {config.keywords['name']} is given for several checkpoints",
            fix="Give each its own in a list: name = ... (--list FILE)",
        )
    entries = [{"checkpoint": name} for name in checkpoints]
    entries += read_list(list_file) if list_file is not None else []
    configs = [config(**entry) for entry in entries]
    store = common.open_store()
    shown = _shown_held_out(configs[0], n_shown, common)
    results = evaluate_many(configs, store, common.clock(), n_jobs)
    common.show({**results.to_dict(), **shown}, lambda: evaluations_view(results))
    if not common.as_json:
        echo(store.ui_hint())
    for failure in results.failed:
        echo(f"error: {failure.checkpoint}: {failure.error}", err=True)
    if results.failed:
        is_ours = any(failure.is_fault for failure in results.failed)
        click.get_current_context().exit(EXIT_FAULT if is_ours else EXIT_USAGE)
