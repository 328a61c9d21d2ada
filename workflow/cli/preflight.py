"""The sub-command `preflight`: a checkpoint on the prompts of its RL run."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlready.registry.errors import ConfigError, StoreError
from rlready.workflow.flags import CommonFlags, command
from rlready.workflow.rl_prompts.config import PreflightConfig
from rlready.workflow.terminal import echo, table

if TYPE_CHECKING:
    from rlready.workflow.rl_prompts.preflight import Preflight


@command
def preflight(checkpoint: str, *, config: partial[PreflightConfig], common: CommonFlags) -> None:
    """Measure CHECKPOINT on the prompts of an RL run, before any RL step.

    Shows the mean reward, the share of GRPO groups whose rewards are all equal and which therefore
    have no gradient, the useful groups to expect in a batch, prompts that are always or never
    solved, cut samples, what the answer format costs, and prompts that the SFT data contain; with
    the advice in plain sentences, here and on a page. Samples are kept and reused as those of
    `evaluate`; the registry is not changed.

    \b
    rlready preflight runs/sft-3 --rl-prompts rl.parquet --group-size 8 --rl-max-tokens 4096
    rlready preflight runs/sft-3 --rl-prompts rl.jsonl --reward my_rewards:exact
    rlready preflight runs/sft-3 --rl-prompts rl.jsonl --sft-data sft.jsonl --write-filtered kept.jsonl

    Args:
        checkpoint: Folder written by save_pretrained, hub id, or registered checkpoint.
        config: What is measured.
        common: The registry and the form of the output.
    """  # noqa: D301, E501 - click reads \b as "keep these lines", which are commands
    # These load numpy, which `--help` does without.
    from rlready.workflow.rl_prompts.page import page, values_of
    from rlready.workflow.rl_prompts.preflight import preflight as measured

    settings = config(checkpoint)
    if not settings.out.parent.is_dir():
        raise ConfigError(f"there is no folder {settings.out.parent}", fix="Create it")
    result = measured(settings, common.clock(), folder=_folder_of(checkpoint, common))
    try:
        settings.out.write_text(page(result), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {settings.out}",
            why=error.strerror or "",
            fix="Give another file to --out; the samples are kept",
        ) from error
    common.show({**values_of(result), "page": str(settings.out)}, lambda: preflight_view(result))
    if not common.as_json:
        echo(f"page: {settings.out}", err=True)


def _folder_of(reference: str, common: CommonFlags) -> str:
    """Return the folder of a registered checkpoint; another reference stays as it is."""
    if Path(reference).exists() or "/" in reference:
        return reference
    try:
        uri = common.open_store().find(reference).checkpoint.uri
    except StoreError:
        return reference  # a hub id without an owner, or a mistake that is reported with its reason
    return uri.removeprefix("file://").removeprefix("hf://")


def preflight_view(result: Preflight) -> Iterator[Any]:
    """Yield the table and the sentences of a preflight, the verdict last."""
    from rlready.workflow.rl_prompts.advice import advice, verdict
    from rlready.workflow.rl_prompts.page import facts

    title = f"{result.name} on {result.config.rl_prompts}"
    words = ("what", "of what")
    yield table(title, ("what", "value", "of what"), facts(result), words=words)
    for finding in advice(result):
        yield f"{finding.topic}: {finding.text}"
    yield verdict(result).text
