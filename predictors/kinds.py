r"""Kinds of numbers, recognised by whole words of a column's name.

A name is read in lower case, as words: `_`, `@`, `.`, `/`, `-`, `:`, `#` and spaces separate them,
so `pre__avg__ent` is `pre avg ent`, and `Pass@1` and `pass_at_1` are both `pass at 1`. The first
row of `RULES` that finds its words in the name decides:

| words, for example | kind | sign |
| --- | --- | --- |
| `se`, `stderr`, `std`, `ci` | plain | none: an error, not a proxy |
| `recipe.*` | count or plain | none: how SFT was done |
| `kl`; losses that RL minimises (`pg_loss`, `policy_loss`) | plain | none |
| `nll`, `loss`, `perplexity`, `bpb`, `cross_entropy`, `brier` | loss | - |
| `error_rate`, `wer` | share | - |
| `entropy`, `ent` | plain | none: its best value lies between its ends |
| `format_gap` | plain | none: lost score, but RL recovers it soon |
| `truncated`, `clip_ratio`, `unparsed`, `format`, `valid_share` | share | none |
| `tokens`, `length`, `len`; `n_*`, `num_*`, `*_count` | count | none |
| `pass@k`, `avg@k`, `mean@k`, `maj@k`, `best@k`, `probe`, `signal_share` | accuracy | + |
| `accuracy`, `acc`, `score`, `exact_match`, `solve_rate`, `overall` | accuracy | + |
| `samples`, `unique`, `exaflops`, `gpu_hours` | count | none |
| `train_*`, `sft_*`, `mix_*`; `reward`, `norm`, `drift`, `bleu` | plain | none |
| a benchmark: `gsm8k`, `math500`, `aime24`, `amc23`, `minerva`, `humaneval` | accuracy | + |
| `epochs`, `steps`; `*_share`, `*_frac` | count; share | none |

A measure therefore wins over a benchmark: `aime24_response_tokens` is a count. In the registry's
names, `<measure>@<benchmark>`, only the measure is read. A name that matches no rule is plain,
without a sign.

Accuracies and shares are percentages if a value is above 1. If the values contradict the kind (a
negative loss, for example), the column is plain.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rlready.registry.errors import ConfigError

Basis = Literal["name", "stated", "unknown", "contradicted"]
"""Why a column has its kind: a known word, the user's choice, no known word, or its values."""

PRACTICE = "pass_at_1"
"""The score before RL, by which people choose checkpoints without a predictor."""


class Kind(StrEnum):
    """Kind of a number; it decides which transform makes its effect nearly linear."""

    LOSS = "loss"
    PROBABILITY = "probability"
    PERCENT = "percent"
    COUNT = "count"
    PLAIN = "plain"


_SHARE = Kind.PROBABILITY

_SHARE_WORD = r"(share|rate|frac|fraction|ratio|pct|percent|percentage)"
_K = r"(\d+|k|n)"

BENCHMARKS = (
    r"gsm ?8?k?( ?(hard|plus|symbolic|platinum))?",
    r"(hendrycks )?math ?(\d+|hard|l(evel ?)?\d)?",
    r"(aime|amc|hmmt|brumo|cmimc|smt|imo|putnam|usamo)( ?\d+)*( i+)?",
    r"minerva( math)?",
    r"olympiad ?(bench)?",
    r"(omni|college|tab|sat|cn|tx|we|beyond|ugd?|gaokao\w*) ?(math|mwp)",
    r"(mathqa|gaokao\w*|cmath|asdiv|mawps|svamp|aqua( rat)?|multiarith|singleeq|addsub|theoremqa)",
    r"(mmlu|gpqa|supergpqa)( ?(pro|redux|stem|diamond|main|extended))?",
    r"arc ?(c|e|challenge|easy)?",
    r"(hellaswag|winogrande|piqa|siqa|boolq|csqa|commonsenseqa|openbookqa|obqa|truthfulqa)",
    r"(triviaqa|strategyqa|squad|bbh|big ?bench( hard)?|agieval|ceval|cmmlu|ifeval|ifbench|musr)",
    r"(human ?eval|mbpp|big ?code ?bench|live ?code ?bench|lcb|live ?bench)( ?(plus|v?\d+))?",
    r"(codeforces|code ?contests|taco|swe ?bench( verified)?|aider|cruxeval|hle|simpleqa)",
    r"(deepmath|dapo|polaris|deepscaler|countdown|zebra ?logic|kor ?bench|chat ?core)",
)
"""Names of benchmarks, as words."""

RULES: tuple[tuple[str, Kind, int], ...] = (
    # Errors and spreads of another column. The share of groups without spread is still a share.
    (rf"\b{_SHARE_WORD} reward zero std\b", _SHARE, 0),
    (r"\b(se|sem|stderr|std err|standard error|std|stdev|sd|ci|ci95|var)\b", Kind.PLAIN, 0),
    # How SFT was done.
    (r"^recipe\b.*\b(n|num|epochs?|steps?|unique|samples|tokens|exaflops?)\b", Kind.COUNT, 0),
    (r"^recipe\b", Kind.PLAIN, 0),
    # What RL minimises, and distances between policies.
    (r"\b(kl|kld|kl ?div(ergence)?)\b", Kind.PLAIN, 0),
    (r"\b(pg|policy|value|actor|critic|vf|aux) loss\b", Kind.PLAIN, 0),
    # Losses on text.
    (
        r"\b(nll|loss|losses|perplexity|ppl|bpb|bpt|bits per (byte|token|char(acter)?))\b"
        r"|\b(cross ?entropy|xent|ce|mse|brier|negative log ?likelihood)\b",
        Kind.LOSS,
        -1,
    ),
    (r"\b(error|err|failure) rate\b|\b(wer|cer)\b", _SHARE, -1),
    (r"\b(entropy|entropies|ent)\b", Kind.PLAIN, 0),
    # The form of answers.
    (r"\bformat gap\b", Kind.PLAIN, 0),
    (
        r"\b(truncated|truncation|trunc|clip|clipped|cut ?off|unparsed|unparsable|unscored|parsed"
        r"|parseable|parsable|unfinished|overlong|repetition|format|formatted|boxed|eos)\b",
        _SHARE,
        0,
    ),
    (rf"\b(in)?valid( answers?)?( {_SHARE_WORD})?$", _SHARE, 0),
    # Lengths and counts. Token accuracy is a share, so its rule comes before that of token counts.
    (r"\btoken (acc|accuracy)\b", _SHARE, 1),
    (r"\b(tokens?|toks|lengths?|len|chars?|characters|words?|bytes)\b", Kind.COUNT, 0),
    (r"^(pre |post )?(n|num|number|count)\b|\bcounts?$|(?<!at )\bn$", Kind.COUNT, 0),
    (r"\b(backtracking|backtracks|verifications?|reflections?)\b", Kind.COUNT, 0),
    # Scores: pass@k and others with a k, then words for a score.
    (rf"\b(pass|maj|majority|cons|best|worst)( at)? ?{_K}\b", _SHARE, 1),
    (rf"\b(avg|mean|average|acc|accuracy|score)( at ?|){_K}\b", _SHARE, 1),
    (r"^(pre |post )?pass$|\bpass rate\b", _SHARE, 1),
    (r"\bprobe ?\d*$|\bprobe\b.* level$", _SHARE, 1),
    (r"\bsignal (share|variance)\b", _SHARE, 1),
    (
        r"\b(accuracy|accuracies|acc|acc norm|score|scores|em|exact match|f1|overall|correct)\b"
        r"|\b(solve|solved|success|win|correctness) ?(rate|share|frac|fraction|ratio)?\b",
        _SHARE,
        1,
    ),
    (
        r"\b(unique|samples|examples|problems|exaflops?|p?flops|flop|hours|params|parameters)\b",
        Kind.COUNT,
        0,
    ),
    # A share of training data may be named like a benchmark; it is not a score.
    (r"^(train|training|sft|sources?|mix|mixture)\b.*\b(epochs?|steps?)\b", Kind.COUNT, 0),
    (r"^(train|training|sft|sources?|mix|mixture)\b", Kind.PLAIN, 0),
    # Other numbers that evaluators and trainers write.
    (r"\b(rewards?|bleu|drift|norm|lr|learning rate|seed|gain)\b", Kind.PLAIN, 0),
    (r"\b(distinct answer|coverage ratio)\b", Kind.PLAIN, 0),
    (rf"\b({'|'.join(BENCHMARKS)})\b|^(pre )?core$", _SHARE, 1),
    (r"\b(epochs?|steps?)\b", Kind.COUNT, 0),
    (rf"\b{_SHARE_WORD}$", _SHARE, 0),
    # Names that only say "before RL" or "mean of benchmarks".
    (r"^(pre|before)( rl)?$|^((pre|before) (rl )?)?(avg|average|mean|macro)$", _SHARE, 1),
)
"""Words in a name, with the kind and the sign of its numbers. The first match decides."""

_CONTEXT = re.compile(r"^((pre|sft|base|eval|val|valid|validation|test|rl|before|after)( |$))+")
_SEPARATORS = re.compile(r"[^a-z0-9^]+|\^")


def words_of(name: str) -> str:
    """Return the words of a column's name in lower case, separated by single spaces.

    Example:
        >>> words_of("Pass@1"), words_of("pre__avg__ent")
        ('pass at 1', 'pre avg ent')
    """
    text = name.lower().replace("@", " at ").replace("%", " percent ")
    return _SEPARATORS.sub(" ", text).strip()


def kind_of(name: str, values: NDArray[np.float64]) -> tuple[Kind, int, Basis]:
    """Return the kind of a column, its sign, and the basis of both.

    Args:
        name: of the column.
        values: (n,) its numbers; NaN where missing.

    Example:
        >>> kind_of("pre_kl", np.array([0.1, 0.2]))
        (<Kind.PLAIN: 'plain'>, 0, 'name')
    """
    rule = _rule(name)
    if rule is None:
        return Kind.PLAIN, 0, "unknown"
    kind, sign = rule
    low, high = _range(values)
    if (kind is Kind.LOSS and low <= 0) or (kind is Kind.COUNT and low < 0):
        return Kind.PLAIN, 0, "contradicted"
    if kind is not _SHARE:
        return kind, sign, "name"
    if low < 0 or high > 100:
        return Kind.PLAIN, sign, "contradicted"
    return (Kind.PROBABILITY if high <= 1 else Kind.PERCENT), sign, "name"


def k_of_pass(name: str, *, strict: bool = False) -> int | None:
    """Return the k of a column of pass@k; 1 for a mean over samples, None for other columns.

    `avg@16` and `mean@16` estimate pass@1 from 16 samples.

    Args:
        name: of the column.
        strict: whether to leave out scores of lenient verdicts and values that were estimated from
            smaller k (`lenient_pass_at_1`, `pass_at_64_est`).

    Example:
        >>> k_of_pass("Pass@64"), k_of_pass("gsm8k/avg@16"), k_of_pass("maj@16")
        (64, 1, None)
    """
    rule, words = _rule(name), words_of(name)
    if rule is None or rule[1] <= 0:
        return None
    if strict and {"lenient", "est"} & set(_measure(name).split()):
        return None
    if re.search(r"\b(avg|mean)( at ?|)\d+\b", words):
        return 1
    match = re.search(r"\bpass( at)? ?(\d+)\b", words)
    return int(match[2]) if match else None


STATED = {
    "loss": (Kind.LOSS, -1, "above 0"),
    "accuracy": (Kind.PROBABILITY, 1, "from 0 to 1"),
    "percent": (Kind.PERCENT, 1, "from 0 to 100"),
    "count": (Kind.COUNT, 0, "0 or more"),
    "plain": (Kind.PLAIN, 0, "of any size"),
}
"""Kinds that a user may name, each with its default sign and its range in words."""

_SIGNS = {"+": 1, "-": -1, "0": 0}


def stated_kinds(texts: Sequence[str], columns: Collection[str]) -> dict[str, tuple[Kind, int]]:
    """Read texts `COL=KIND[:SIGN]`; return kind and sign of each column.

    Args:
        texts: KIND is a key of `STATED`; SIGN is + (larger is better), - or 0 (unknown).
        columns: names of the columns that may be named.

    Raises:
        ConfigError: if a text has another form, a kind or column is unknown, or a column is named
            twice with different kinds.

    Example:
        >>> stated_kinds(["ppl_ref=loss", "style=plain:+"], ["ppl_ref", "style"])["style"]
        (<Kind.PLAIN: 'plain'>, 1)
    """
    kinds: dict[str, tuple[Kind, int]] = {}
    for text in texts:
        column, equals, right = (part.strip() for part in text.rpartition("="))
        word, colon, sign = (part.strip() for part in right.partition(":"))
        if not equals or not column or (colon and sign not in _SIGNS):
            raise ConfigError(
                f"--kind {text!r} does not say which column is of which kind",
                fix="Write COLUMN=KIND or COLUMN=KIND:SIGN, for example --kind pre_kl=plain or "
                "--kind style=plain:+; signs are + (larger is better), - and 0 (unknown)",
            )
        if word.lower() not in STATED:
            raise ConfigError(
                f"--kind {text!r}: there is no kind {word!r}",
                fix=f"Known: {', '.join(f'{name} (numbers {STATED[name][2]})' for name in STATED)}",
            )
        if column not in columns:
            raise ConfigError(
                f"--kind {text!r}: there is no column {column!r} among the proxies and the target",
                fix=f"They are {', '.join(columns)}",
            )
        kind, usual_sign, _ = STATED[word.lower()]
        stated = (kind, _SIGNS[sign] if colon else usual_sign)
        if kinds.setdefault(column, stated) != stated:
            raise ConfigError(f"--kind names two kinds of {column!r}", fix="Give one")
    return kinds


def kind_word(kind: Kind, sign: int) -> str:
    """Return the user's word for a kind: a key of `STATED`, or `share` for one without a sign."""
    if kind is Kind.PROBABILITY:
        return "accuracy" if sign > 0 else "share"
    return kind.value


def _measure(name: str) -> str:
    """Return the words to read; for `<measure>@<benchmark>` only the words of the measure."""
    head, at, benchmark = name.partition("@")
    # In `avg@16` and `pass@k` a number of samples follows the `@`, not a benchmark.
    if not at or re.match(rf"\s*{_K}(\W|_|$)", benchmark.lower()):
        return words_of(name)
    words = words_of(head)
    # `eval@gsm8k` has no measure before the `@`.
    return words if _CONTEXT.sub("", words) else words_of(name)


def _rule(name: str) -> tuple[Kind, int] | None:
    """Return kind and sign of the first rule whose words are in the name."""
    words = _measure(name)
    bare = _CONTEXT.sub("", words)
    for pattern, kind, sign in RULES:
        if re.search(pattern, words) or (bare and re.search(pattern, bare)):
            return kind, sign
    return None


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
