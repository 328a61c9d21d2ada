"""The sub-commands between rlready and a trainer: `tag` and `resolve`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

from rlready.registry.digest import default_cache_dir
from rlready.registry.errors import CheckpointError, ConfigError
from rlready.registry.outcomes import current
from rlready.registry.readiness_tag import ALIAS
from rlready.workflow.flags import CommonFlags, Flag, command
from rlready.workflow.terminal import echo, echo_for_programs, echo_json, table

if TYPE_CHECKING:
    from rlready.registry.mlflow_store.readiness import ResolvedCheckpoint, TaggedFamily
    from rlready.registry.records import Checkpoint
    from rlready.registry.store import StoredCheckpoint


@command
def tag(
    *,
    predictor: str = "grpo-predictor",
    name: Annotated[str | None, Flag(metavar="NAME")] = None,
    allow_trained: bool = False,
    dry_run: bool = False,
    common: CommonFlags,
) -> None:
    """Tag the ranked checkpoints in MLflow's model registry.

    Each ranked checkpoint becomes a version of its family's registered model, with the tag rl_ready
    (true, false or undecided), the predicted outcome, its interval and the reasons. The best READY
    checkpoint without an RL run gets the alias rl-ready, by which `rlready resolve` finds the
    weights. If there is no such checkpoint, no checkpoint has the alias. A repeated call only
    changes outdated tags. Before a predictor is fitted, all checkpoints are undecided, with their
    place by public outcomes, and no alias is set.

    Args:
        predictor: Predictor of the ranking: the name of a registered predictor (its champion),
            models:/NAME@ALIAS or models:/NAME/VERSION.
        name: Registered model for all checkpoints.  [default: one per base model, with its name:
            Qwen/Qwen2.5-7B gives Qwen2.5-7B-sft]
        allow_trained: If all READY checkpoints had their RL run, put the alias on the best of them.
        dry_run: Show what would be tagged, and write nothing.
        common: The registry and the form of the output.
    """
    from rlready.registry.mlflow_store.readiness import put_tags
    from rlready.workflow.predict.first_day import first_day, is_first_day
    from rlready.workflow.predict.tag import prior_tags, ranked_tags, write_pages

    store, made_at = common.open_store(), datetime.now(UTC)
    spent: frozenset[str] = frozenset()
    notes: list[str] = []
    if is_first_day(store, predictor):
        tags, why = prior_tags(first_day(store), made_at=made_at)
        notes.append(why)
    else:
        tags, spent = ranked_tags(store, predictor, made_at=made_at)
    families = put_tags(
        store, tags, name=name, spent=spent, allow_trained=allow_trained, dry_run=dry_run
    )
    pages = None
    if not dry_run:
        pages = write_pages(store, tags, aliases_of(families))
        notes.append(pages)
    values = {
        "dry_run": dry_run,
        "pages": pages,
        "families": [_family_dict(family) for family in families],
        "notes": notes,
    }
    parts = [part for family in families for part in _family_view(family, dry_run)]
    common.show(values, lambda: [*parts, *notes])
    if families and not dry_run and not common.as_json:
        echo(store.ui_hint())


@command
def resolve(uri: str, *, allow_trained: bool = False, common: CommonFlags) -> None:
    """Print the folder of the checkpoint that URI names, for a trainer.

    URI is models:/NAME@rl-ready, models:/NAME/VERSION, or NAME. Weights on a hub are downloaded.
    The weights are compared with the registered ones. An alias is refused if its checkpoint had an
    RL run after it was tagged.

    \b
    trl grpo --model_name_or_path "$(rlready resolve models:/Qwen2.5-7B-sft@rl-ready)" ...

    Args:
        uri: Address of the checkpoint.
        allow_trained: Print the folder even if RL was already run from this checkpoint.
        common: The registry and the form of the output.
    """  # noqa: D301 - click reads \b as "keep these lines"
    from rlready.registry.mlflow_store.readiness import resolve as resolve_uri
    from rlready.registry.readiness_tag import Readiness

    store = common.open_store()
    resolved = resolve_uri(store, uri)
    outcomes = _outcomes_after_rl(store.find(resolved.checkpoint.id), resolved)
    names_version = uri.rpartition("/")[2].isdigit()
    if outcomes and not (allow_trained or names_version):
        raise ConfigError(
            f"{uri} is {resolved.checkpoint.name}, which had its RL run: {outcomes[0]}",
            why="the alias marks the checkpoint for the next run",
            fix="Run `rlready tag` again, which puts the alias on a checkpoint without a run; or "
            f"give --allow-trained, or the version: {resolved.version}",
        )
    path = weights_folder(resolved.checkpoint)
    if common.as_json:
        echo_json({**_resolved_dict(resolved, path), "is_trained": bool(outcomes)})
        return
    whose = f"{resolved.version} ({resolved.checkpoint.name})"
    if outcomes:
        echo(f"note: {whose} had its RL run: {outcomes[0]}", err=True)
    if resolved.tag is None or resolved.tag.readiness is not Readiness.READY:
        state = "was never ranked" if resolved.tag is None else f"is {resolved.tag.readiness.name}"
        echo(f"note: {whose} {state}", err=True)
    echo_for_programs(os.fsencode(path) + b"\n")


def aliases_of(families: Sequence[TaggedFamily]) -> dict[str, str]:
    """Return the address of the alias by id of the checkpoint that has it."""
    return {
        family.chosen: f"models:/{family.name}@{ALIAS}"
        for family in families
        if family.chosen is not None
    }


def _outcomes_after_rl(stored: StoredCheckpoint, resolved: ResolvedCheckpoint) -> list[str]:
    """Return the recorded outcomes of the tag's target; without a tag, of any target."""
    target = None if resolved.tag is None else resolved.tag.target.partition("#")[0]
    return [
        f"{outcome.key} is {outcome.value:.4g}"
        for outcome in current(stored.outcomes)
        if target in (None, outcome.key)
    ]


def weights_folder(checkpoint: Checkpoint) -> Path:
    """Return the folder of a checkpoint's weights, after comparing them with the registered ones.

    Weights on a hub are downloaded if they are not in its cache.

    Raises:
        CheckpointError: if the folder is gone, is not a safe checkpoint, or holds other weights.
    """
    # Imported here, because it loads numpy, which `--help` does not need.
    from rlready.evaluators.checkpoints.folder import (
        check_folder,
        folder_fingerprint,
        open_weights,
    )

    whose = f"checkpoint {checkpoint.id[:12]} ({checkpoint.name})"
    scheme, _, rest = checkpoint.uri.partition("://")
    if scheme == "hf":
        path = open_weights(rest).folder
    elif scheme == "file":
        path = Path(unquote(urlsplit(checkpoint.uri).path))
        if not path.is_dir():
            raise CheckpointError(
                f"the weights of {whose} are gone",
                why=f"there is no folder {path}",
                fix="Put them back; or evaluate them at their new place, which registers it",
            )
        check_folder(path)
    else:
        raise CheckpointError(
            f"the weights of {whose} are at {checkpoint.uri}",
            why="rlready reads folders (file://) and hubs (hf://)",
            fix="Download them yourself, and evaluate the folder",
        )
    content = folder_fingerprint(path, default_cache_dir())
    if content != checkpoint.fingerprint:
        raise CheckpointError(
            f"{path} does not hold the weights of {whose}",
            why=f"their fingerprint is {content[:12]}: they were replaced after the evaluation",
            fix="Put the registered weights back, or evaluate and tag the present ones",
        )
    return path


def _resolved_dict(resolved: ResolvedCheckpoint, path: Path) -> dict[str, Any]:
    """Return a resolved checkpoint as JSON values: the contract of `rlready resolve --json`."""
    checkpoint, tag = resolved.checkpoint, resolved.tag
    return {
        "path": str(path),
        "uri": checkpoint.uri,
        "checkpoint_id": checkpoint.id,
        "name": checkpoint.name,
        "kind": checkpoint.kind,
        "model_id": resolved.model_id,
        "version": resolved.version,
        "aliases": list(resolved.aliases),
        "tag": None if tag is None else tag.to_dict(),
    }


def _family_dict(family: TaggedFamily) -> dict[str, Any]:
    """Return a tagged family as JSON values: a part of the contract of `rlready tag --json`."""
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


def _family_view(family: TaggedFamily, dry_run: bool) -> list[Any]:
    """Return a table with a row per checkpoint, and a note on the alias."""
    rows = [
        (
            each.name,
            each.tag.readiness.name,
            "unknown" if each.tag.predicted is None else f"{each.tag.predicted:.4g}",
            each.tag.interval,
            each.tag.domain,
            each.uri or "",
            "new" if each.is_new else "changed" if each.is_changed else "same",
        )
        for each in family.tagged
    ]
    title = f"{len(rows)} checkpoints {'would be tagged' if dry_run else 'tagged'} in {family.name}"
    headings = ("checkpoint", "rl_ready", "predicted", "interval", "domain", "version", "")
    return [table(title, headings, rows, words=headings), family.note]
