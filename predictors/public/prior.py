"""The prior on slopes inside a group: a table in the package that a script writes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rlready.registry.errors import ConfigError

_HEADER = """\
# Written by `python bench/learn_prior.py --write` from rows.csv and sources.toml. Do not edit.
#
# A slope is the expected gain, in standard deviations of the outcome inside a group, of a
# checkpoint that stands one standard deviation higher in its group (a lower loss stands higher).
# between_sd: spread of the slope from group to group, with the error of the mean.
# residual_sd: what one proxy of this kind leaves open.
# `slopes` are used, `measured` is for readers. A kind that the rows do not support carries figures
# that were measured on more rows; its basis says so.
"""


@dataclass(frozen=True, kw_only=True)
class Slope:
    """The slope of a kind of proxy inside a group.

    Args:
        kind: kind of proxy, or the name of one public proxy.
        slope: standard deviations of the outcome per standard deviation of the proxy.
        between_sd: standard deviation of the slope between groups.
        residual_sd: standard deviation of an outcome around the line.
        n_groups: number of groups behind the slope.
        sources: ids of the sources.
        basis: "learned", or another origin of the figures.
    """

    kind: str
    slope: float
    between_sd: float
    residual_sd: float
    n_groups: int
    sources: tuple[str, ...]
    basis: str


@dataclass(frozen=True, kw_only=True)
class TrackRecord:
    """The record of such advice in public groups that the prior had not seen.

    Args:
        right: share of pairs with different outcomes that pass@1 put in the right order, mean over
            groups of the shipped rows.
        n_groups: number of groups.
        n_better_than_chance: number of groups in which more than half of the pairs were right.
        n_sources: number of sources.
        right_of_more: the same share, measured once on more rows than are shipped, with each
            source left out.
        right_with_loss: `right_of_more` with a held-out loss in addition to pass@1.
        right_with_own_loss: the same with a loss of the checkpoints' own style.
    """

    right: float
    n_groups: int
    n_better_than_chance: int
    n_sources: int
    right_of_more: float = 0.72
    right_with_loss: float = 0.76
    right_with_own_loss: float = 0.87

    def in_words(self, *, with_loss: bool) -> str:
        """Return the record as a sentence; `with_loss` adds that of a loss of the own style."""
        words = (
            f"on public groups that the prior had not seen, post-SFT scores alone put "
            f"{self.right:.0%} of pairs in the right order ({self.n_groups} groups of "
            f"{self.n_sources} sources, better than chance in {self.n_better_than_chance}; "
            f"{self.right_of_more:.0%} in 13 groups of 8 sources, not all shipped)"
        )
        if with_loss:
            words += f", and {self.right_with_own_loss:.0%} with a held-out loss of the own style"
        return words


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The prior knowledge from public outcomes.

    Args:
        slopes: one slope for each kind of proxy with a weight.
        measured: slope of each public proxy on the shipped rows, for readers.
        outcome_sd: median standard deviation of outcomes (shares) inside a group.
        outcome_sd_log_sd: standard deviation of the logarithm of `outcome_sd`.
        track_record: record of the order by pass@1.
    """

    slopes: tuple[Slope, ...]
    measured: tuple[Slope, ...]
    outcome_sd: float
    outcome_sd_log_sd: float
    track_record: TrackRecord

    def slope(self, kind: str) -> Slope:
        """Return the slope of a kind.

        Raises:
            ConfigError: if the kind is unknown.
        """
        for slope in self.slopes:
            if slope.kind == kind:
                return slope
        kinds = ", ".join(slope.kind for slope in self.slopes)
        raise ConfigError(f"the prior has no kind {kind!r}", fix=f"Known: {kinds}")


def shipped_prior() -> Prior:
    """Return the prior that comes with the package."""
    text = (files("rlready.predictors.public") / "prior.toml").read_text(encoding="utf-8")
    return from_toml(text)


def to_toml(prior: Prior) -> str:
    """Return a prior as TOML, with numbers to four digits."""
    lines = [
        _HEADER,
        f"outcome_sd = {prior.outcome_sd:.4f}",
        f"outcome_sd_log_sd = {prior.outcome_sd_log_sd:.4f}",
        "",
        "[track_record]",
        *_entries(vars(prior.track_record)),
    ]
    for name, slopes in (("slopes", prior.slopes), ("measured", prior.measured)):
        for slope in slopes:
            lines += ["", f"[[{name}]]", *_entries(vars(slope))]
    return "\n".join(lines) + "\n"


def from_toml(text: str) -> Prior:
    """Read a prior from the text of `to_toml`."""
    table = tomllib.loads(text)
    return Prior(
        slopes=tuple(map(_slope, table.pop("slopes"))),
        measured=tuple(map(_slope, table.pop("measured", []))),
        track_record=TrackRecord(**table.pop("track_record")),
        **table,
    )


def _slope(entry: dict[str, Any]) -> Slope:
    return Slope(**{**entry, "sources": tuple(entry["sources"])})


def _entries(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
