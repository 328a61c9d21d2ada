"""A preflight as values for `--json`, and as one HTML file that needs nothing else.

Prompts and samples come from models and from other people's files: the template escapes every
value, and the page has no script.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from rlready.evaluators.metrics.estimates import Estimate
from rlready.workflow.html_page import rendered, visible
from rlready.workflow.rl_prompts.advice import advice, verdict
from rlready.workflow.rl_prompts.preflight import Preflight

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_TEXT_CHARACTERS = 4_000
_MAX_BARS = 33


def values_of(result: Preflight) -> dict[str, Any]:
    """Return a preflight as one JSON object: the contract of `rlready preflight --json`."""
    groups, config = result.groups, result.config
    expected, spread = groups.useful_in_batch(config.groups)
    return {
        "checkpoint": {"id": result.checkpoint_id, "name": result.name},
        "rl_prompts": str(config.rl_prompts),
        "verdict": verdict(result).to_dict(),
        "advice": [finding.to_dict() for finding in advice(result)],
        "n_rows": result.n_rows,
        "n_repeated": result.n_repeated,
        "n_prompts": len(result.rewards),
        "n_samples": result.n_samples,
        "group_size": groups.group_size,
        "mean_reward": dataclasses.asdict(groups.mean_reward),
        "groups_without_variance": dataclasses.asdict(groups.equal),
        "groups_all_unsolved": dataclasses.asdict(groups.equal_unsolved),
        "groups_all_solved": dataclasses.asdict(groups.equal_solved),
        "useful_share": groups.useful,
        "useful_share_bounds": [groups.least_useful, groups.most_useful],
        "batch": {
            "groups": config.groups,
            "useful": expected,
            "sd": spread,
            "chance_of_none": groups.none_useful(config.groups),
        },
        "n_prompts_in_shares": groups.n_prompts,
        "n_prompts_too_few_scored": groups.n_short,
        "all_solved": result.all_solved,
        "never_solved": result.never_solved,
        "without_gradient": result.constant,
        "format_gap": _values(result.format_gap),
        "unparsed_share": _values(result.unparsed),
        "truncated_share": dataclasses.asdict(result.truncated),
        "rl_max_tokens": config.rl_max_tokens,
        "tokens_90_percent": result.length_90,
        "n_unscored": result.n_unscored,
        "unscored_reasons": dict(result.unscored_reasons),
        "overlap": [
            {
                "file": overlap.path,
                **overlap.found.to_dict(),
                "mean_reward": overlap.reward_of_found,
                "mean_reward_of_others": overlap.reward_of_others,
            }
            for overlap in result.overlaps
        ],
        "filtered": None
        if result.filtered_rows is None
        else {"file": str(config.write_filtered), "n_rows": result.filtered_rows},
        "warnings": list(result.warnings),
    }


def facts(result: Preflight) -> list[tuple[str, str, str]]:
    """Return the numbers for people: what, value with its standard error, and an explanation."""
    groups, config = result.groups, result.config
    expected, spread = groups.useful_in_batch(config.groups)
    low, high = groups.least_useful, groups.most_useful
    rows = [
        ("mean reward", _shown(groups.mean_reward), "of a sample, over prompts"),
        (
            "groups without variance",
            _percent(groups.equal),
            f"of groups of {groups.group_size}; they have no gradient",
        ),
        ("groups all wrong", _percent(groups.equal_unsolved), "no sample is solved"),
        ("groups all right", _percent(groups.equal_solved), "every sample is solved"),
        (
            "useful groups in a batch",
            f"{expected:.1f} ± {spread:.1f}",
            f"of {config.groups}; the share is between {low:.1%} and {high:.1%} (95%)",
        ),
        (
            "batches without signal",
            f"{groups.none_useful(config.groups):.1%}",
            "chance that no group of a batch is useful",
        ),
        (
            "prompts without gradient",
            f"{len(result.constant)} of {len(result.rewards)}",
            f"{len(result.all_solved)} always solved, {len(result.never_solved)} never solved, in "
            f"{result.n_samples} samples",
        ),
        (
            "cut samples",
            _percent(result.truncated),
            f"at {config.rl_max_tokens} tokens; 9 in 10 samples have up to {result.length_90}",
        ),
    ]
    if result.format_gap is not None:
        rows.append(
            ("format gap", _percent(result.format_gap), "right, but not in the answer format")
        )
    if result.unparsed is not None:
        rows.append(("without an answer", _percent(result.unparsed), config.answer_format))
    rows.append(
        (
            "UNSCORED samples",
            f"{result.n_unscored} of {result.n_samples * len(result.rewards)}",
            "; ".join(f"{text} ({n})" for text, n in result.unscored_reasons.items()) or "none",
        )
    )
    rows += [
        (
            "overlap with SFT data",
            f"{len(overlap.found.exact)} + {len(overlap.found.partial)}",
            f"prompts in {overlap.path}: word for word + 13 words in a row",
        )
        for overlap in result.overlaps
    ]
    return rows


def page(result: Preflight) -> str:
    """Return the HTML text of a preflight.

    Example:
        >>> Path("preflight.html").write_text(page(result))  # doctest: +SKIP
    """
    return rendered(
        _TEMPLATE,
        {"readable": _readable},
        result=result,
        verdict=verdict(result),
        advice=advice(result),
        facts=facts(result),
        parts=_parts(result),
        bars=_bars(result),
    )


def _parts(result: Preflight) -> list[dict[str, Any]]:
    """Return the three parts of the bar of groups, with their places from 0 to 100."""
    groups = result.groups
    shares = (
        ("bad", "all wrong", groups.equal_unsolved.value),
        ("good", "useful", groups.useful),
        ("soft", "all right", groups.equal_solved.value),
    )
    begin, parts = 0.0, []
    for style, name, share in shares:
        parts.append({"style": style, "name": name, "share": share, "x": 100 * begin})
        begin += share
    return parts


def _bars(result: Preflight) -> list[dict[str, Any]]:
    """Return the number of prompts by solved samples: one bar for each number, or for ranges."""
    n, at = result.n_samples, result.config.solved_reward
    counts = Counter(p.n_solved(at) for p in result.rewards if p.n)
    width = -(-(n + 1) // _MAX_BARS)
    ends = [(first, min(first + width - 1, n)) for first in range(0, n + 1, width)]
    numbers = [sum(counts[i] for i in range(first, last + 1)) for first, last in ends]
    highest = max(numbers) or 1
    return [
        {
            "label": str(first) if first == last else f"{first}-{last}",
            "n": number,
            "height": 100.0 * number / highest,
            "style": "bad" if last == 0 else "soft" if first == n else "good",
        }
        for (first, last), number in zip(ends, numbers, strict=True)
    ]


def _values(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else dataclasses.asdict(estimate)


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}" + (f" ± {estimate.se:.3f}" if estimate.se else "")


def _percent(estimate: Estimate) -> str:
    # A standard error of 0 only says that all prompts agree.
    return f"{estimate.value:.1%}" + (f" ± {estimate.se:.1%}" if estimate.se else "")


def _readable(text: str) -> str:
    """Return a text, cut if it is very long, with controls as visible marks."""
    shown, n_cut = visible(text[:_TEXT_CHARACTERS]), len(text) - _TEXT_CHARACTERS
    return shown if n_cut <= 0 else f"{shown}\n[{n_cut:,} more characters]"
