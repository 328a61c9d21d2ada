"""Descriptions on the pages of MLflow, in Markdown: of checkpoints, versions and registered models.

MLflow lists each metric in its own row, so a value, its error and the same proxy on another
benchmark are far apart there. A checkpoint's description begins with what the last ranking says
about it. Its proxies follow side by side, then its outcomes and its recipe. It is written again
with every evaluation, outcome and ranking, unless a person has replaced it.

MLflow 3.17 renders Markdown of GitHub's kind with tables and images, and removes scripts and every
style: alignment, padding of cells and margins of headings are lost. Names may come from files of
other people: `escaped` makes any text show as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC

from rlready.registry.errors import StoreError
from rlready.registry.mlflow_store.record_tags import RANKED_ALIAS, printable, read_tag
from rlready.registry.outcomes import Outcome, conflicts, current, how_rl_was_done
from rlready.registry.readiness_tag import ALIAS, ReadinessTag, number_text
from rlready.registry.records import Checkpoint, Proxy

NOTE = "mlflow.note.content"
"""MLflow's tag for the description of a run or model."""
SIGNATURE = "Written by rlready; edit this line away to keep your own text."
"""Last line of a description that the next call may replace."""

_EARLIER_START = "Written by rlready at each evaluation; edit this line away"  # until version 0.1
_NOTE_CHARACTERS = 12_000  # MySQL keeps 65,535 bytes in a tag
_PAGE_CHARACTERS = 4800  # databases keep 5,000 of a description; PostgreSQL refuses a longer one
_MAX_COLUMNS = 5  # benchmarks side by side; more do not fit the page
_MAX_REASONS = 8
_FEW_REASONS = 4
_NAME_CHARACTERS = 60
_SUITE = "mean"  # the mean of a suite's benchmarks comes first

_SPECIAL = re.compile(r"[\\`*_{}\[\]()#+!~|]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", ":": "&#58;", "@": "&#64;"}
_GAP = "&ensp;"  # MLflow puts no space between the columns of a table
_MORE = "More: `rlready show`."
_MORE_RANKED = "More: `rlready rank`."


def escaped(value: object, most: int | None = None) -> str:
    """Return a value as Markdown that shows it as it is, in one line.

    Args:
        value: a text of any origin, or a JSON value.
        most: characters of it that are shown; the rest becomes an ellipsis.

    Example:
        >>> escaped("<b>a@gsm8k</b>")
        '&lt;b&gt;a&#64;gsm8k&lt;/b&gt;'
    """
    text = " ".join(printable(value).split())
    if most is not None and len(text) > most:
        text = text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    # MLflow makes links of addresses and of @names, and pictures of :names:.
    text = "".join(_ENTITIES.get(c, c) for c in _SPECIAL.sub(r"\\\g<0>", text))
    text = re.sub(r"(?i)\bwww\.", r"www&#46;", text)
    # At the start of a line these would begin a list.
    return re.sub(r"^(\d+)\.(?=\s)", r"\1&#46;", re.sub(r"^([-=])", r"\\\1", text))


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; cells are Markdown, see `escaped`."""
    bar = "|---" * len(head) + "|"
    first, *others = (f"| {f'{_GAP} | '.join(row)} |" for row in (head, *rows))
    return [first, bar, *others]


def picture(title: str, run_id: str, path: str) -> str:
    """Return Markdown that shows a picture among a run's artifacts."""
    from urllib.parse import quote

    # The address is relative, so it also works behind a prefix. MLflow's own pages use it too.
    query = f"path={quote(path, safe='/')}&run_uuid={quote(run_id, safe='')}"
    return f"![{escaped(title)}](get-artifact?{query})"


def is_ours(present: str | None) -> bool:
    """Return whether a description may be replaced: rlready wrote it, or there is none."""
    return not present or SIGNATURE in present or present.startswith(_EARLIER_START)


def note_tag(
    checkpoint: Checkpoint,
    proxies: Sequence[Proxy],
    present: Mapping[str, str],
    outcomes: Sequence[Outcome] = (),
) -> Mapping[str, str]:
    """Return the tag of a checkpoint's description, or no tag if a person wrote the present one.

    Args:
        checkpoint: the checkpoint.
        proxies: what was measured before RL.
        present: tags of its model: the description, and what the last ranking says.
        outcomes: what was recorded after RL.
    """
    if not is_ours(present.get(NOTE)):
        return {}
    try:
        ranked = read_tag(present)
    except StoreError:  # edited by hand: the page does without, and the next ranking writes it
        ranked = None
    alias = present.get(RANKED_ALIAS, "")
    return {NOTE: checkpoint_description(checkpoint, proxies, outcomes, ranked, alias)}


def checkpoint_description(
    checkpoint: Checkpoint,
    proxies: Sequence[Proxy],
    outcomes: Sequence[Outcome] = (),
    ranked: ReadinessTag | None = None,
    alias: str = "",
) -> str:
    """Return a checkpoint's description: verdict, proxies, outcomes and recipe.

    Args:
        checkpoint: the checkpoint.
        proxies: what was measured before RL.
        outcomes: what was recorded after RL.
        ranked: what the last ranking says about it; None if it was not ranked.
        alias: address of the alias that it has; empty if it has none.
    """
    blocks = [
        _verdict(outcomes, ranked, alias),
        *_proxy_tables(proxies),
        *([_outcome_table(outcomes)] if outcomes else []),
    ]
    if checkpoint.recipe is not None:
        cells = [
            (escaped(key), escaped(value)) for key, value in _flat(checkpoint.recipe.to_dict())
        ]
        blocks.append(["<br>**Recipe**", "", *table_lines(("field", "value"), cells)])
    return _joined(blocks, _NOTE_CHARACTERS)


def version_page(summary: str, lines: Sequence[str]) -> str:
    """Return the description of a version or registered model: summary, lines, signature.

    Args:
        summary: MLflow's lists show its beginning.
        lines: of Markdown, which are left out where they exceed what databases keep.
    """
    return _joined([[summary], list(lines)], _PAGE_CHARACTERS)


def fact_lines(facts: Mapping[str, str]) -> list[str]:
    """Return the lines of a table of names and values."""
    cells = [(escaped(name), escaped(value)) for name, value in facts.items()]
    return table_lines(("", ""), cells)


def bullets(texts: Iterable[str]) -> list[str]:
    """Return the lines of a list."""
    return [f"- {escaped(text)}" for text in texts]


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
        "ranked": _time(tag),
    }
    place = f", {escaped(tag.place)}" if tag.place else ""
    summary = f"{_word(tag)}{place}: {number_text(tag.predicted)}, interval {tag.interval}"
    return version_page(summary, [*bullets(tag.reasons[:_MAX_REASONS]), "", *fact_lines(facts)])


def family_description(base: str, ranked: Sequence[tuple[int, str, ReadinessTag]]) -> str:
    """Return the description of a family's registered model: its last ranking as a table.

    Args:
        base: the base model of the family.
        ranked: version, checkpoint's name and tag of each checkpoint, the best first.
    """
    rows = [
        (
            str(version),
            escaped(name, _NAME_CHARACTERS),
            _word(tag),
            number_text(tag.predicted),
            tag.interval.partition(" (")[0],
        )
        for version, name, tag in ranked
    ]
    level = f"interval ({ranked[0][2].level * 100:g} %)"
    head = ("version", "checkpoint", "verdict", "predicted", level)
    summary = (
        f"Checkpoints of {escaped(base)}, ranked by predicted outcome after RL. A version is a "
        "checkpoint; its tag `rl_ready` and its page say what was decided and why; the alias "
        f"`{ALIAS}` is on the best one. Weights are referenced, not copied: `rlready resolve` "
        "prints their path."
    )
    target = f"Predicted: {escaped(ranked[0][2].target)}"
    lines = [target, "", *table_lines(head, rows)]
    return _joined([[summary], lines], _PAGE_CHARACTERS, _MORE_RANKED)


def _joined(blocks: Iterable[Sequence[str]], most: int, more: str = _MORE) -> str:
    """Return lines of Markdown with the signature after them, without those that do not fit."""
    ending = f"<br>{SIGNATURE}"
    room, text = most - len(ending) - len(more) - 8, ""
    for block in blocks:
        for line in (*(["", ""] if text else []), *block):
            if len(text) + len(line) + 1 > room:
                return f"{text.rstrip()}\n\n{more}\n\n{ending}"
            text += line + "\n" if line or not text.endswith("\n\n") else ""
    return f"{text.rstrip()}\n\n{ending}"


def _verdict(outcomes: Sequence[Outcome], ranked: ReadinessTag | None, alias: str) -> list[str]:
    """Return the first lines of a checkpoint's page."""
    if ranked is None:
        done = [f"{escaped(o.key)} is {_value(o)}" for o in current(outcomes)[:3]]
        first = f"**RL was run: {'; '.join(done)}.** " if done else ""
        return [f"{first}**Not ranked yet.** `rlready rank` writes the verdict here."]
    value = number_text(ranked.predicted)
    predicted = f"predicted {value} after RL, interval {ranked.interval}"
    recorded = [o for o in current(outcomes) if o.key == ranked.target.partition("#")[0]]
    place = f", {escaped(ranked.place)}" if ranked.place else ""
    if recorded:
        reached = " and ".join(_value(o) for o in recorded[:3])
        first = f"**RL was run: {reached} reached{place}.** Without this outcome: {predicted}."
    else:
        words = "for RL" if ranked.readiness.name != "UNDECIDED" else "whether RL is worth it"
        first = f"**{_word(ranked).replace('_', ' ')} {words}{place}: {predicted}.**"
    if alias:
        first += f" Alias: {escaped(alias)}."
    by = f"{escaped(ranked.predictor)} version {escaped(ranked.predictor_version)}"
    about = f"Predicted: {escaped(ranked.target)}, by {by}, {_time(ranked)}"
    # The version's page has all of them. One repeats the numbers that are already in bold.
    reasons = [text for text in ranked.reasons if not text.startswith("predicted ")]
    return [first, "", *bullets(reasons[:_FEW_REASONS]), "", about]


def _proxy_tables(proxies: Sequence[Proxy]) -> list[list[str]]:
    """Return tables of the proxies, benchmarks side by side."""
    # Of two measurements under different protocols the last one is the newest.
    cells = {(proxy.benchmark, proxy.name): proxy for proxy in proxies}
    benchmarks = dict.fromkeys(proxy.benchmark for proxy in proxies)
    by_names: dict[tuple[str, ...], list[str]] = {}
    for benchmark in sorted(benchmarks, key=lambda name: name != _SUITE):
        names = tuple(sorted(name for other, name in cells if other == benchmark))
        by_names.setdefault(names, []).append(benchmark)
    order = list(dict.fromkeys(name for _, name in cells))
    blocks = []
    for names, shown in by_names.items():
        for start in range(0, len(shown), _MAX_COLUMNS):
            chosen = shown[start : start + _MAX_COLUMNS]
            rows = [
                [
                    escaped(name),
                    *(_value(cells[benchmark, name]) for benchmark in chosen),
                    escaped(cells[chosen[0], name].unit),
                ]
                for name in sorted(names, key=order.index)
            ]
            head = ("proxy", *(escaped(each, _NAME_CHARACTERS) for each in chosen), "unit")
            blocks.append(table_lines(head, rows))
    if blocks:
        title = "<br>**Before RL** (value ± standard error over problems)"
        blocks[0] = [title, "", *blocks[0]]
    return blocks


def _outcome_table(outcomes: Sequence[Outcome]) -> list[str]:
    """Return the valid outcomes, one line each, and their conflicts."""
    rows = [
        [
            escaped(o.key),
            _value(o),
            "" if o.seed is None else str(o.seed),
            escaped(how_rl_was_done(o), _NAME_CHARACTERS),
        ]
        for o in current(outcomes)
    ]
    lines = table_lines(("outcome", "value", "seed", "RL"), rows)
    disputes = [f"**CONFLICT:** {escaped(str(each))}" for each in conflicts(outcomes)]
    return ["<br>**After RL**", "", *lines, *(part for text in disputes for part in ("", text))]


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    """Yield the fields of a recipe with those of its parts: `sources.gsm8k`, 0.5."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", f"{value:.6g}" if isinstance(value, float) else value


def _word(tag: ReadinessTag) -> str:
    return tag.readiness.name


def _time(tag: ReadinessTag) -> str:
    return tag.made_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _value(number: Proxy | Outcome) -> str:
    digits = 1 if abs(number.value) >= 100 else 4
    error = "" if number.se is None else f" ± {number.se:.{digits}f}"
    return f"{number.value:.{digits}f}{error}"
