"""Descriptions on the pages of MLflow, in Markdown: of checkpoints, versions and registered models.

MLflow lists each metric in its own row, so a value, its error and the same proxy on another
benchmark are far apart there. A checkpoint's description is one table of all of them. It is written
again with every evaluation and outcome, unless a person has replaced it.

Tables and facts stand in `text` blocks. Names may come from files of other people, so no backtick
is kept in a block: nothing inside can end it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC

from rlready.registry.mlflow_store.record_tags import printable
from rlready.registry.outcomes import Outcome, conflicts, current, how_rl_was_done
from rlready.registry.readiness_tag import ALIAS, ReadinessTag, number_text
from rlready.registry.records import Checkpoint, Proxy

NOTE = "mlflow.note.content"
"""MLflow's tag for the description of a run or model."""
SIGNATURE = "Written by rlready; edit this line away to keep your own text."
"""Last line of a description that the next call may replace."""

_NOTE_START = "Written by rlready at each evaluation; edit this line away to keep your own text."
_NOTE_CHARACTERS = 8000
_MAX_COLUMNS = 4  # benchmarks side by side; more do not fit the page
_PAGE_CHARACTERS = 4800  # databases keep 5,000 of a description; PostgreSQL refuses a longer one
_PAGE_WIDTH = 96
_MAX_REASONS = 8
_NAME_CHARACTERS = 40


def note_tag(
    checkpoint: Checkpoint,
    proxies: Sequence[Proxy],
    present: str | None,
    outcomes: Sequence[Outcome] = (),
) -> Mapping[str, str]:
    """Return the tag of a checkpoint's description, or no tag if a person wrote the present one."""
    if present and not present.startswith(_NOTE_START):
        return {}
    return {NOTE: checkpoint_description(checkpoint, proxies, outcomes)}


def checkpoint_description(
    checkpoint: Checkpoint, proxies: Sequence[Proxy], outcomes: Sequence[Outcome] = ()
) -> str:
    """Return tables of a checkpoint's proxies and outcomes, value ± standard error."""
    # Of two measurements under different protocols the last one is the newest.
    cells = {(proxy.benchmark, proxy.name): proxy for proxy in proxies}
    by_names: dict[tuple[str, ...], list[str]] = {}
    for benchmark in dict.fromkeys(proxy.benchmark for proxy in proxies):
        names = tuple(name for other, name in cells if other == benchmark)
        by_names.setdefault(names, []).append(benchmark)
    blocks = [_outcome_table(outcomes)] if outcomes else []
    for names, benchmarks in by_names.items():
        for start in range(0, len(benchmarks), _MAX_COLUMNS):
            shown = benchmarks[start : start + _MAX_COLUMNS]
            rows = [["", *shown, "unit"]]
            for name in names:
                values = [_value(cells[benchmark, name]) for benchmark in shown]
                rows.append([name, *values, cells[shown[0], name].unit])
            blocks.append(_aligned(rows))
    if checkpoint.recipe is not None:
        recipe = checkpoint.recipe.to_dict()
        blocks.append("\n".join(["recipe", *(f"  {key} = {recipe[key]}" for key in recipe)]))
    text = f"{_NOTE_START} Value ± standard error over problems."
    for block in blocks:
        addition = "\n\n```text\n" + block.replace("`", "'") + "\n```"
        if len(text) + len(addition) > _NOTE_CHARACTERS:
            return text + "\n\nMore in `rlready show`."
        text += addition
    return text


def version_page(summary: str, block: str) -> str:
    """Return the description of a version or registered model: summary, text block, signature.

    Args:
        summary: written by rlready alone; MLflow's lists show its beginning.
        block: plain lines, cut where they exceed what databases keep.
    """
    room = _PAGE_CHARACTERS - len(summary) - len(SIGNATURE)
    plain = block.replace("`", "'")
    if len(plain) > room:
        plain = plain[:room].rpartition("\n")[0] + "\n..."
    return f"{summary}\n\n```text\n{plain}\n```\n\n{SIGNATURE}"


def fact_lines(facts: Mapping[str, str]) -> list[str]:
    """Return lines of names with their values beside them, wrapped to the page's width."""
    indent = " " * (max(map(len, facts)) + 2)
    return [
        line
        for name, value in facts.items()
        for line in wrapped(name.ljust(len(indent)), printable(value), indent)
    ]


def wrapped(first: str, text: str, indent: str) -> list[str]:
    """Return the lines of a text, no wider than a block shows without scrolling."""
    return textwrap.wrap(
        text, _PAGE_WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    ) or [first.rstrip()]


def tagged_version_description(tag: ReadinessTag, checkpoint: Checkpoint) -> str:
    """Return the description of a checkpoint's version: decision, prediction, reasons, origin."""
    facts = {
        "target": tag.target,
        "interval": tag.regime,
        "domain": tag.domain,
        "checkpoint": f"{checkpoint.name}  {checkpoint.id}",
        "weights": checkpoint.uri,
        "predictor": f"{tag.predictor} version {tag.predictor_version}",
        "rule": tag.rule_digest,
        "ranked": tag.made_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    reasons = [
        line
        for reason in tag.reasons[:_MAX_REASONS]
        for line in wrapped("- ", printable(reason), "  ")
    ]
    summary = f"{tag.readiness.name}: {number_text(tag.predicted)}, interval {tag.interval}"
    return version_page(summary, "\n".join([*reasons, "", *fact_lines(facts)]))


def family_description(base: str, ranked: Sequence[tuple[int, str, ReadinessTag]]) -> str:
    """Return the description of a family's registered model: its last ranking as a table.

    Args:
        base: the base model of the family.
        ranked: version, checkpoint's name and tag of each checkpoint, the best first.
    """
    rows = [("version", "checkpoint", "rl_ready", "predicted", "interval", "domain")]
    for version, name, tag in ranked:
        decision = (tag.readiness.name, number_text(tag.predicted), tag.interval, tag.domain)
        rows.append((str(version), printable(name)[:_NAME_CHARACTERS], *decision))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    summary = (
        f"Checkpoints of `{printable(base).replace('`', '')}`, ranked by predicted outcome after "
        "RL. A version is a checkpoint; its tag `rl_ready` and its page say what was decided and "
        f"why; the alias `{ALIAS}` is on the best one. Weights are referenced, not copied: "
        "`rlready resolve` prints their path."
    )
    return version_page(summary, "\n".join([f"predicted {ranked[0][2].target}", "", *lines]))


def _outcome_table(outcomes: Sequence[Outcome]) -> str:
    """Return the valid outcomes, one line each, and their conflicts."""
    rows = [["after RL", "value", "seed", "RL"]]
    rows += [
        [o.key, _value(o), "" if o.seed is None else str(o.seed), how_rl_was_done(o)[:60]]
        for o in current(outcomes)
    ]
    return "\n".join([_aligned(rows), *(f"CONFLICT: {each}" for each in conflicts(outcomes))])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return columns of equal width; those between the first and the last are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 0 < i < len(row) - 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _value(number: Proxy | Outcome) -> str:
    digits = 1 if abs(number.value) >= 100 else 4
    error = "" if number.se is None else f" ± {number.se:.{digits}f}"
    return f"{number.value:.{digits}f}{error}"
