"""Check from a checkpoint's proxies whether GRPO can work, before any RL step.

| finding | from | warns | stops | source |
|---|---|---|---|---|
| signal | `signal_share_<g>`: share of groups of g samples whose rewards differ | < 0.2 | < 0.05 | derived |
| rate | `pass_at_1` against p*(g) = ln 2 / g, where half of the groups are all wrong | < 2.3 p* | - | arXiv 2606.18487 |
| coverage | `coverage_ratio_<K>` against the base model | > 1 | - | arXiv 2608.25756 |
| entropy | `token_entropy`, nats | < 0.18 | - | arXiv 2606.18487, one ladder of checkpoints only |
| regime | `nll_ratio` = loss / lowest loss of the SFT run | >= 1.02 | - | arXiv 2512.11470 |
| truncated, unparsed, unscored | shares of samples | > 0.1, 0.1, 0.02 | - | a reward of 0, or noise, whatever the answer |
| format | `format_gap` = lenient - strict pass@1 of the same samples | > 0.1 | - | derived |
| conflict | loss against pass@k, both by 2 standard errors | always | - | arXiv 2510.01624 leaves the case open |

A warning is a reason to look, not a verdict: the thresholds come from few models. A number counts as
beyond a threshold only if it is beyond it by twice its standard error. A number that is closer is
reported as too close to call.
"""  # noqa: E501 - a table row is one line

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from rlready.registry.errors import ConfigError
from rlready.registry.records import k_of


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    STOP = "stop"


@dataclass(frozen=True, kw_only=True)
class ProxyValue:
    """The value of a proxy and its standard error (None if unknown)."""

    value: float
    se: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3g}" if self.se is None else f"{self.value:.3g} +- {self.se:.2g}"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One result of `check_start`.

    Args:
        level: ok, warn or stop.
        topic: signal, rate, coverage, entropy, regime, samples, format or conflict.
        text: a sentence with the number.
        source: source of the threshold.
    """

    level: Level
    topic: str
    text: str
    source: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the fields as JSON values."""
        return {name: str(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class StartRule:
    """The thresholds of `check_start`; the module's docstring names their sources.

    Example:
        >>> StartRule(group_size=16).group_size
        16
    """

    group_size: int = 8
    stop_signal: float = 0.05
    warn_signal: float = 0.2
    warn_rate: float = 2.3
    safe_rate: float = 4.2
    warn_coverage: float = 1.0
    warn_entropy: float = 0.18
    stable_ratio: float = 1.02
    severe_ratio: float = 1.10
    warn_truncated: float = 0.1
    warn_unparsed: float = 0.1
    warn_unscored: float = 0.02
    warn_format_gap: float = 0.1
    n_errors: float = 2.0

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ConfigError(
                f"a GRPO group of {self.group_size} samples has no variance", fix="Give 2 or more"
            )


Proxies = Mapping[str, ProxyValue]
"""Proxies of a checkpoint by name, `<metric>@<benchmark>`."""

_ERROR = re.compile(r"^(?P<metric>[^@]+)_se@(?P<where>.+)$")


def proxies_of(row: Mapping[str, object]) -> dict[str, ProxyValue]:
    """Return the proxies in a row of the registry's table, each with the error from `_se`.

    Empty cells, cells that are not numbers, columns without `@`, and outcomes are left out.
    """
    numbers = {
        name: float(value)
        for name, value in row.items()
        if "@" in name
        and "/" not in name.partition("@")[0]
        and isinstance(value, int | float)
        and math.isfinite(value)
    }
    errors = {
        f"{match['metric']}@{match['where']}": value
        for name, value in numbers.items()
        if (match := _ERROR.match(name))
    }
    return {
        name: ProxyValue(value=value, se=errors.get(name))
        for name, value in numbers.items()
        if not name.partition("@")[0].endswith(("_se", "_n"))
    }


def check_start(
    proxies: Proxies, benchmark: str | None = None, rule: StartRule | None = None
) -> tuple[Finding, ...]:
    """Return what the proxies of a checkpoint say about GRPO from it, the most severe first.

    Args:
        proxies: proxies of the checkpoint, by name.
        benchmark: benchmark whose samples to use, best one that is similar to the RL prompts. It
            may be None if samples were drawn on one benchmark only.
        rule: thresholds and the group size of the RL run.

    Raises:
        ConfigError: if the benchmark is unknown, or has to be named.

    Example:
        >>> proxies = {"signal_share_8@gsm8k": ProxyValue(value=0.02, se=0.005)}
        >>> check_start(proxies)[0].level
        <Level.STOP: 'stop'>
    """
    rule = rule or StartRule()
    here = _metrics(proxies, _benchmark(proxies, benchmark))
    findings = [
        *_signal(here, rule),
        *_rate(here, rule),
        *_coverage(here, rule),
        *_entropy(here, rule),
        *_samples(here, rule),
        *_format(here, rule),
        *_regime(proxies, rule),
    ]
    return gravest_first(findings)


def conflicts(
    proxies: Proxies,
    reference: Proxies,
    reference_name: str,
    benchmark: str | None = None,
    rule: StartRule | None = None,
) -> tuple[Finding, ...]:
    """Return contradictions between a held-out loss and pass@k, at the largest k.

    Both have to differ by `rule.n_errors` standard errors of the difference. The errors are taken
    as independent. Checkpoints that were measured on the same problems have smaller errors, so the
    reported conflicts are real ones.

    Args:
        proxies: proxies of the checkpoint, by name.
        reference: proxies of another checkpoint, or `mean_proxies` of several.
        reference_name: name of the reference in the messages.
        benchmark: benchmark of pass@k. It may be None if samples were drawn on one benchmark only.
        rule: number of standard errors that make a difference.

    Raises:
        ConfigError: if the benchmark is unknown, or has to be named.
    """
    rule = rule or StartRule()
    benchmark = _benchmark(proxies, benchmark)
    here = _metrics(proxies, benchmark)
    k = max((k for metric in here if (k := k_of(metric)) is not None), default=1)
    if k == 1:
        return ()
    score = f"pass_at_{k}@{benchmark}"
    losses = [name for name in proxies if name.startswith("heldout_nll@")]
    return tuple(
        _conflict(proxies, reference, reference_name, loss, score)
        for loss in losses
        if _contradict(_step(proxies, reference, loss), _step(proxies, reference, score), rule)
    )


def mean_proxies(rows: Iterable[Proxies]) -> dict[str, ProxyValue]:
    """Return the mean of each proxy that all rows have, with the standard error of the mean."""
    every = list(rows)
    if not every:
        return {}
    shared = [name for name in every[0] if all(name in row for row in every)]
    means = {}
    for name in shared:
        errors = [row[name].se for row in every]
        measured = [error for error in errors if error is not None]
        means[name] = ProxyValue(
            value=math.fsum(row[name].value for row in every) / len(every),
            se=math.sqrt(math.fsum(e * e for e in measured)) / len(every)
            if len(measured) == len(every)
            else None,
        )
    return means


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings by severity: stop, warn, ok."""
    order = list(Level)
    return tuple(sorted(findings, key=lambda finding: -order.index(finding.level)))


_SIGNAL = re.compile(r"^signal_share_([0-9]+)$")
_COVERAGE = re.compile(r"^coverage_ratio_([0-9]+)$")


def _benchmark(proxies: Proxies, asked: str | None) -> str:
    """Return the benchmark whose samples are used; empty if no proxy comes from samples."""
    names = sorted({name.partition("@")[2] for name in proxies if _from_samples(name)})
    if asked is not None and asked not in names:
        raise ConfigError(
            f"no proxy was measured on samples of {asked!r}",
            fix=f"Sampled benchmarks: {', '.join(names) or 'none'}",
        )
    if asked is None and len(names) > 1:
        raise ConfigError(
            "the check needs one benchmark",
            why=f"samples were drawn on {', '.join(names)}",
            fix="Name the one that is most like the RL prompts",
        )
    return asked or "".join(names)


def _metrics(proxies: Proxies, benchmark: str) -> dict[str, ProxyValue]:
    """Return the proxies of one benchmark, by metric."""
    split = {name: name.partition("@") for name in proxies}
    return {split[name][0]: proxies[name] for name in proxies if split[name][2] == benchmark}


def _from_samples(name: str) -> bool:
    return name.startswith(
        ("pass_at_", "lenient_pass_at_", "signal_share_", "token_entropy", "truncated_share")
    )


def _signal(here: Mapping[str, ProxyValue], rule: StartRule) -> list[Finding]:
    g = rule.group_size
    measured = {int(m[1]): here[name] for name in here if (m := _SIGNAL.match(name))}
    if not measured:
        return []
    # The share rises with the group size, so the share of another size is a bound.
    below = [size for size in measured if size <= g]
    size = max(below) if below else min(measured)
    share = measured[size]
    bound = "" if size == g else f" ({'a lower' if size < g else 'an upper'} bound for {g})"
    side = _side(here)
    text = f"{share} of the groups of {size}{bound} have rewards that differ"
    source = "share of groups with a gradient"
    stops = _beyond(share, rule.stop_signal, rule, below=True)
    if stops and size >= g:
        text = f"GRPO has almost no gradient: {text}{side}"
        return [Finding(level=Level.STOP, topic="signal", text=text, source=source)]
    if share.value < rule.warn_signal and size >= g:
        text = f"GRPO has little gradient: {text}{side}"
        return [Finding(level=Level.WARN, topic="signal", text=text, source=source)]
    if share.value < rule.warn_signal:
        text = f"it is too close to call whether GRPO has a gradient: {text}"
        return [Finding(level=Level.WARN, topic="signal", text=text, source=source)]
    if size > g:
        text += f"; measure signal_share_{g}"
    return [Finding(level=Level.OK, topic="signal", text=text, source=source)]


def _side(here: Mapping[str, ProxyValue]) -> str:
    """Say whether most groups without variance are all wrong or all right."""
    if "pass_at_1" not in here:
        return ""
    p = here["pass_at_1"]
    kind = "all wrong: easier prompts" if p.value < 0.5 else "all right: harder prompts"
    return f"; pass@1 is {p}, so most groups are {kind} would give a gradient"


def _rate(here: Mapping[str, ProxyValue], rule: StartRule) -> list[Finding]:
    if "pass_at_1" not in here:
        return []
    p, star = here["pass_at_1"], math.log(2.0) / rule.group_size
    ratio = p.value / star
    text = f"pass@1 is {p}, {ratio:.1f} times p*({rule.group_size}) = {star:.3f}"
    level = Level.OK
    if ratio < 1.0:
        level = Level.WARN
        text += ", below which a group of a typical prompt is more often all wrong than not"
    elif ratio < rule.warn_rate:
        level = Level.WARN
        text += "; the one published ladder that began so low lost pass@10 in GRPO"
    elif ratio < rule.safe_rate:
        text += f"; the one published model that gained began at {rule.safe_rate} or more"
    return [Finding(level=level, topic="rate", text=text, source="arXiv 2606.18487")]


def _coverage(here: Mapping[str, ProxyValue], rule: StartRule) -> list[Finding]:
    findings = []
    for name, ratio in here.items():
        if not (match := _COVERAGE.match(name)):
            continue
        text = f"coverage ratio at {match[1]} samples is {ratio}"
        level = Level.OK
        if _beyond(ratio, rule.warn_coverage, rule, below=False):
            level = Level.WARN
            text += ": SFT destroyed more of what the base model reaches than it made"
        elif ratio.value > rule.warn_coverage:
            text += ": above 1, but by less than twice its standard error"
        findings.append(
            Finding(level=level, topic="coverage", text=text, source="arXiv 2608.25756")
        )
    return findings


def _entropy(here: Mapping[str, ProxyValue], rule: StartRule) -> list[Finding]:
    entropy = here.get("token_entropy")
    if entropy is None:
        return []
    text = f"token entropy is {entropy} nats"
    level = Level.OK
    if entropy.value < rule.warn_entropy:
        level = Level.WARN
        text += (
            f", below {rule.warn_entropy}: in one ladder of checkpoints of one model such starts "
            "lost diversity in RL; elsewhere the threshold is untested"
        )
    return [Finding(level=level, topic="entropy", text=text, source="arXiv 2606.18487")]


def _samples(here: Mapping[str, ProxyValue], rule: StartRule) -> list[Finding]:
    limits = {
        "truncated_share": (rule.warn_truncated, "cut at the token limit, reward 0 by length"),
        "unparsed_share": (rule.warn_unparsed, "without an answer, reward 0 by format"),
        "unscored_share": (rule.warn_unscored, "whose check failed, so that rewards are noise"),
    }
    findings = []
    for name, (limit, what) in limits.items():
        if name in here and _beyond(here[name], limit, rule, below=False):
            text = f"{here[name]} of the samples are {what}"
            findings.append(Finding(level=Level.WARN, topic="samples", text=text))
    return findings


def _format(here: Mapping[str, ProxyValue], rule: StartRule) -> list[Finding]:
    """Say whether low scores come from the format of the answers or from missing skill."""
    gap, lenient = here.get("format_gap"), here.get("lenient_pass_at_1")
    if gap is None or lenient is None:
        return []
    text = f"format gap is {gap}: pass@1 is {lenient} with the answer wherever it stands"
    if _beyond(gap, rule.warn_format_gap, rule, below=False):
        text += (
            ". This start fails by format: show it the answer format in a few SFT examples or in "
            "the prompt, or name the format it uses (--answer-format), before judging its skill"
        )
        return [Finding(level=Level.WARN, topic="format", text=text)]
    if lenient.value < rule.warn_rate * math.log(2.0) / rule.group_size:
        text += ". This start fails by skill, not by format: easier prompts or more SFT help"
    return [Finding(level=Level.OK, topic="format", text=text)]


def _regime(proxies: Proxies, rule: StartRule) -> list[Finding]:
    findings = []
    for name, ratio in proxies.items():
        if name.partition("@")[0] != "nll_ratio":
            continue
        level = Level.OK if ratio.value <= rule.stable_ratio else Level.WARN
        regime = "stable or before its minimum"
        if ratio.value > rule.stable_ratio:
            severe = ratio.value >= rule.severe_ratio
            regime = "severe overfitting" if severe else "mild overfitting"
        text = f"held-out loss is {ratio} times the lowest of its SFT run ({name}): {regime}"
        findings.append(Finding(level=level, topic="regime", text=text, source="arXiv 2512.11470"))
    return findings


def _beyond(measured: ProxyValue, limit: float, rule: StartRule, *, below: bool) -> bool:
    margin = rule.n_errors * (measured.se or 0.0)
    return measured.value + margin < limit if below else measured.value - margin > limit


def _step(proxies: Proxies, reference: Proxies, name: str) -> float:
    """Return the checkpoint's value minus the reference's, in standard errors; 0 if unknown."""
    if name not in proxies or name not in reference:
        return 0.0
    ours, theirs = proxies[name], reference[name]
    if ours.se is None or theirs.se is None:
        return 0.0
    error = math.hypot(ours.se, theirs.se)
    return (ours.value - theirs.value) / error if error > 0.0 else 0.0


def _contradict(of_loss: float, of_score: float, rule: StartRule) -> bool:
    # A higher loss means worse and a higher score means better, so equal signs contradict.
    return of_loss * of_score > 0 and min(abs(of_loss), abs(of_score)) >= rule.n_errors


def _conflict(
    proxies: Proxies, reference: Proxies, reference_name: str, loss: str, score: str
) -> Finding:
    of_loss, of_score = _step(proxies, reference, loss), _step(proxies, reference, score)
    return Finding(
        level=Level.WARN,
        topic="conflict",
        text=f"{loss} says {'worse' if of_loss > 0 else 'better'} than {reference_name} "
        f"({proxies[loss]} against {reference[loss]}, {abs(of_loss):.1f} standard errors), "
        f"{score} says {'better' if of_score > 0 else 'worse'} ({proxies[score]} against "
        f"{reference[score]}, {abs(of_score):.1f} standard errors)",
        source="arXiv 2510.01624",
    )


def worst(findings: Sequence[Finding]) -> Level:
    """Return the most severe level among the findings; ok if there are none."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
