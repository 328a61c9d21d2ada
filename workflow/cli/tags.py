"""The sub-commands between rlready and a trainer: `tag` and `resolve`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from rlready.workflow.cli.options import TEXT, open_store, print_view, registry_options
from rlready.workflow.terminal import echo, echo_for_programs

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlready.registry.mlflow_store.readiness import TaggedFamily, TaggedVersion


@click.command()
@click.option(
    "--predictor",
    default="grpo-predictor",
    show_default=True,
    help="By whose ranking: a registered predictor's name (its champion), models:/NAME@ALIAS or "
    "models:/NAME/VERSION.",
)
@click.option(
    "--name",
    type=TEXT,
    default="",
    metavar="NAME",
    help="Registered model for all checkpoints.  [default: one a base model, named after it: "
    "Qwen/Qwen2.5-7B gives Qwen2.5-7B-sft]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be tagged, and write nothing.")
@registry_options
def tag(
    predictor: str,
    name: str | None,
    dry_run: bool,
    experiment: str,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Tag the ranked checkpoints in MLflow's model registry.

    Each ranked checkpoint becomes a version of its family's registered model, with the tag rl_ready
    (true, false or undecided), the predicted outcome, its interval and the reasons. The best READY
    one that had no RL run yet gets the alias rl-ready, from which `rlready resolve` finds the
    weights. Repeating it changes nothing that is still true.
    """
    from datetime import UTC, datetime

    from rlready.registry.mlflow_store.readiness import put_tags
    from rlready.workflow.predict.tag import ranked_tags

    store = open_store(tracking_uri, experiment)
    tags, spent = ranked_tags(store, predictor, made_at=datetime.now(UTC))
    families = put_tags(store, tags, name=name, spent=spent, dry_run=dry_run)
    if as_json:
        said = {"dry_run": dry_run, "families": [family_dict(family) for family in families]}
        echo(json.dumps(said, ensure_ascii=False, allow_nan=False))
        return
    for family in families:
        print_view(family_view(family, dry_run))
    if families and not dry_run:
        echo(store.ui_hint())


@click.command()
@click.argument("uri")
@registry_options
def resolve(uri: str, experiment: str, tracking_uri: str | None, as_json: bool) -> None:
    """Print the folder of the checkpoint that URI names, for a trainer.

    URI is models:/NAME@rl-ready, models:/NAME/VERSION, or NAME. Weights on a hub are fetched. That
    they are still the registered ones is checked.

    \b
    trl grpo --model_name_or_path "$(rlready resolve models:/Qwen2.5-7B-sft@rl-ready)" ...
    """  # noqa: D301 - click reads \b as "keep these lines"
    from rlready.registry.mlflow_store.readiness import resolve as find
    from rlready.registry.readiness_tag import Readiness
    from rlready.workflow.cli.resolve import resolved_dict, weights_folder

    found = find(open_store(tracking_uri, experiment), uri)
    path = weights_folder(found.checkpoint)
    if as_json:
        echo(json.dumps(resolved_dict(found, path), ensure_ascii=False, allow_nan=False))
        return
    if found.tag is None or found.tag.readiness is not Readiness.READY:
        said = "was never ranked" if found.tag is None else f"is {found.tag.readiness.name}"
        echo(f"note: {found.version} ({found.checkpoint.name}) {said}", err=True)
    echo_for_programs(os.fsencode(path) + b"\n")


def family_dict(family: TaggedFamily) -> dict[str, Any]:
    """What became of a family: a part of the contract of `rlready tag --json`."""
    return {
        "name": family.name,
        "chosen": family.chosen,
        "note": family.note,
        "tagged": [
            {
                **each.tag.to_dict(),
                "name": each.name,
                "version": each.uri,
                "is_new": each.is_new,
                "is_changed": each.is_changed,
            }
            for each in family.tagged
        ],
    }


def family_view(family: TaggedFamily, dry_run: bool) -> RenderableType:
    """A line a checkpoint, and what became of the alias."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    columns = ("checkpoint", "rl_ready", "predicted", "interval", "domain", "version", "")
    would = "would be tagged" if dry_run else "tagged"
    table = Table(title=Text(f"{len(family.tagged)} checkpoints {would} in {family.name}"))
    for column in columns:
        table.add_column(column)
    for row in _rows(family.tagged):
        table.add_row(*map(Text, row))
    return Group(table, Text(family.note))


def _rows(tagged: Sequence[TaggedVersion]) -> list[tuple[str, ...]]:
    return [
        (
            each.name,
            each.tag.readiness.name,
            "unknown" if each.tag.predicted is None else f"{each.tag.predicted:.4g}",
            each.tag.interval,
            each.tag.domain,
            each.uri or "",
            "new" if each.is_new else "changed" if each.is_changed else "same",
        )
        for each in tagged
    ]
