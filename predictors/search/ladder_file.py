"""A fidelity ladder from the table [ladder] of a space file.

    [ladder]
    top = 3                           # recipes that are wanted in the end
    promote_at = 0.1                  # least P(top 3) with which a trial goes on to the dearest
                                      # rung, to cheaper ones in proportion; default: top / 30
    min_keep = 3                      # so many go beyond each rung; default: top
    min_complete = 6                  # trials with an outcome before any is stopped

    [[ladder.rungs]]                  # from the cheapest on
    name = "sft_quarter"              # the training command is told {rung}
    gpu_hours = 0.5                   # beyond the rungs before it
    kind = "loss"                     # loss, probability, percent, count or plain
    better = "less"                   # less, more or unknown

    [[ladder.rungs]]
    name = "heldout"
    gpu_hours = 1.5
    proxy = "heldout_nll@val"         # of the trained checkpoint, as the registry has it

    [[ladder.rungs]]
    name = "rl"                       # the last one gives the trial's value, as without a ladder
    gpu_hours = 40

`kind` and `better` are told by the proxy's or the rung's name where it has a known word in it. A
rung with a proxy is known of the registry's checkpoints too, and so teaches before any trial is at
its end. Rungs before the end of the training (`sft_quarter`) have none, and give their value.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlready.predictors.search.ladder import Ladder, Rung
from rlready.predictors.search.toml_values import a_number, a_table, a_text, check_keys
from rlready.predictors.training_table import Kind
from rlready.registry.errors import ConfigError
from rlready.registry.foreign_files import read_toml

_KEYS = ("top", "promote_at", "min_keep", "min_complete", "rungs")
_RUNG_KEYS = ("name", "gpu_hours", "proxy", "kind", "better")
_SIGNS = {"more": 1, "less": -1, "unknown": 0}
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_FEWEST_COMPLETE = 3


def read_ladder(path: Path) -> Ladder | None:
    """The ladder of a space file that `recipe_file.read_space` has checked; None if it has none."""
    given = read_toml(path).get("ladder")
    return None if given is None else parse_ladder(given)


def parse_ladder(given: Any) -> Ladder:
    """The ladder that a table of TOML describes.

    Raises:
        ConfigError: at an unknown key, a value that cannot be meant, fewer than two rungs, a name
            that is taken twice, or rungs out of order.
    """
    values = a_table("ladder", given)
    check_keys("[ladder]", values, _KEYS)
    rungs = values.get("rungs")
    if not isinstance(rungs, list) or len(rungs) < 2:
        raise ConfigError(
            "a ladder has at least two rungs", fix="Write [[ladder.rungs]], the cheapest first"
        )
    top = _whole("ladder.top", values.get("top", 3), 1)
    promote_at = a_number("ladder.promote_at", values.get("promote_at", min(top / 30, 0.5)))
    if not 0.0 <= promote_at < 1.0:
        raise ConfigError(
            f"ladder.promote_at is {promote_at:g}",
            why="it is the least chance to end in the top with which a trial goes on",
            fix="Give 0 or more, and less than 1",
        )
    ladder = Ladder(
        rungs=tuple(_rung(f"ladder.rungs[{i}]", one) for i, one in enumerate(rungs)),
        top=top,
        promote_at=promote_at,
        min_keep=_whole("ladder.min_keep", values.get("min_keep", top), 0),
        min_complete=_whole("ladder.min_complete", values.get("min_complete", 6), _FEWEST_COMPLETE),
    )
    _check_rungs(ladder)
    return ladder


def _rung(where: str, given: Any) -> Rung:
    values = a_table(where, given)
    check_keys(where, values, _RUNG_KEYS)
    for key in ("name", "gpu_hours"):
        if key not in values:
            raise ConfigError(f"{where} has no {key}")
    name = a_text(f"{where}.name", values["name"])
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}.name is {name!r}",
            why="it becomes a word of the training command",
            fix="Use letters, digits, '_', '-' and '.'",
        )
    hours = a_number(f"rung {name!r}: gpu_hours", values["gpu_hours"])
    if hours < 0.0:
        raise ConfigError(f"rung {name!r} costs {hours:g} GPU-hours", fix="Give 0 or more")
    better = values.get("better")
    if better is not None and better not in _SIGNS:
        raise ConfigError(f"rung {name!r}: better is {better!r}", fix=f"Known: {', '.join(_SIGNS)}")
    proxy = values.get("proxy")
    return Rung(
        name=name,
        gpu_hours=hours,
        proxy=None if proxy is None else a_text(f"rung {name!r}: proxy", proxy),
        kind=_kind(name, values.get("kind")),
        sign=None if better is None else _SIGNS[better],
    )


def _kind(name: str, given: Any) -> Kind | None:
    if given is None:
        return None
    for kind in Kind:
        if given == kind.value:
            return kind
    raise ConfigError(
        f"rung {name!r}: kind is {given!r}", fix=f"Known: {', '.join(kind.value for kind in Kind)}"
    )


def _check_rungs(ladder: Ladder) -> None:
    names = ladder.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the ladder has the rung {twice[0]!r} twice")
    last = ladder.rungs[-1]
    if last.proxy or last.kind or last.sign is not None:
        raise ConfigError(
            f"the last rung {last.name!r} has a proxy, kind or better",
            why="its value is the trial's own: the outcome, more is better",
            fix="Leave them out there; put rungs in the order in which they are climbed",
        )
    if last.gpu_hours <= 0.0:
        raise ConfigError(
            f"the last rung {last.name!r} costs nothing",
            why="there is nothing to save by stopping before it",
            fix="Give its gpu_hours, or no ladder",
        )


def _whole(name: str, given: Any, least: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < least:
        raise ConfigError(f"{name} is {given!r}", fix=f"Give a whole number of at least {least}")
    return given
