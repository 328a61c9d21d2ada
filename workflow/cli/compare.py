"""The sub-commands that write pages: `compare` and `report`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from rlready.registry.errors import ConfigError, RlreadyError
from rlready.workflow.cli.predict import PREDICTOR, EarlyFlags
from rlready.workflow.cli.search import STORAGE
from rlready.workflow.compare.config import CompareConfig
from rlready.workflow.flags import CommonFlags, Flag, command
from rlready.workflow.terminal import echo, table

if TYPE_CHECKING:
    from rlready.workflow.compare.comparison import Comparison, ExampleDifference, FlippedProblem
    from rlready.workflow.compare.paired import PairedDifference
    from rlready.workflow.report.parts import Report
    from rlready.workflow.search.report import SearchReport

REPORT = "report.html"
_EXAMPLES = 3


@command
def compare(
    checkpoint: tuple[str, ...],
    *,
    config: partial[CompareConfig],
    common: CommonFlags,
) -> None:
    """Compare CHECKPOINT B, and C if given, with CHECKPOINT A.

    Shows the paired difference of each pass@k and held-out loss with its interval, the problems
    that one solves and the other does not, the examples whose loss changed most, and what differs
    in the recipe. Only the same content under the same protocol is compared; the rest is named.

    \b
    rlready compare sft-1 sft-2
    rlready compare sft-1 sft-2 sft-3 --out compare.html --problems 20

    Args:
        checkpoint: Two or three checkpoints: an id, the beginning of one, a name, or an MLflow
            model id. The first is the reference.
        config: What is shown.
        common: The registry and the form of the output.
    """  # noqa: D301 - click reads \b as "keep these lines"
    # These load numpy, which `--help` does without.
    from rlready.workflow.compare.comparison import compare as compared
    from rlready.workflow.compare.page import page

    settings = config()
    comparisons = compared(checkpoint, common.open_store(), settings)
    if settings.out is not None:
        _write(settings.out, page(comparisons))
    values = {"comparisons": [comparison.to_dict() for comparison in comparisons]}
    common.show(
        values,
        lambda: [part for each in comparisons for part in comparison_view(each, settings.level)],
    )
    if settings.out is not None:
        echo(f"page: {settings.out}", err=True)


@command
def report(
    *,
    out: Annotated[Path, Flag(metavar="FILE.html")] = Path(REPORT),
    rl_runs: Annotated[int, click.IntRange(min=1), Flag(metavar="N")] = 3,
    predictor: Annotated[str, Flag(metavar="NAME")] = PREDICTOR,
    no_log: bool = False,
    study: str | None = None,
    storage: str = STORAGE,
    space: Annotated[Path | None, Flag(metavar="FILE.toml")] = None,
    early: EarlyFlags,
    common: CommonFlags,
) -> None:
    """Write a page that says which checkpoints to train next, and how sure that is.

    One HTML file that needs nothing else: the verdict in one sentence, the ranking with its
    reasons, the order before and after RL, pass@k, what each proxy was worth, regret against the
    number of RL runs, and how earlier predictions fared. Before a predictor is fitted it shows what
    public outcomes say and what is missing. With a predictor the page is also logged to MLflow, as
    an artifact of the run of its fit.

    Args:
        out: File of the page.
        rl_runs: RL runs that can be paid for.
        predictor: NAME, models:/NAME@ALIAS or models:/NAME/3.
        no_log: Do not log the page to MLflow.
        study: Recipe search whose response surface is shown.  [default: the only one in --storage]
        storage: Database of the study.
        space: TOML file of the study's recipes.  [default: the file it was opened with]
        early: What public outcomes are applied to.
        common: The registry and the form of the output.
    """
    # These load numpy and MLflow, which `--help` does without.
    from rlready.workflow.report.evidence import gather
    from rlready.workflow.report.log import log_report
    from rlready.workflow.report.page import page
    from rlready.workflow.report.report import report_of

    search, study_note = _stored_study(storage, study, space)
    store = common.open_store()
    evidence = gather(
        store,
        predictor,
        rl_runs,
        target=early.target,
        own_style=early.own_style,
        kinds=early.kinds,
    )
    if evidence.applied is not None:
        early.check_fitted(predictor)
    made = report_of(evidence, search)
    text = page(made)
    _write(out, text)
    address, note = None, ""
    if not no_log:
        address, note = log_report(store, evidence, made, text)
    values = {**made.facts, "out": str(out), "logged": address}
    notes = [*filter(None, [study_note, note])]
    common.show(values, lambda: _report_lines(made, out, notes))


def _report_lines(made: Report, out: Path, notes: Sequence[str]) -> Iterator[str]:
    """Yield what the terminal shows of a report, the verdict last."""
    yield from (f"missing: {text}" for text in made.missing)
    yield from (f"note: {note}" for note in notes)
    yield f"page: {out}"
    yield made.verdict


def _stored_study(
    storage: str, name: str | None, space: Path | None
) -> tuple[SearchReport | None, str]:
    """Return the report of a study, and a note if none is shown though there are some."""
    sqlite = Path(storage.removeprefix("sqlite:///"))
    if name is None and storage == STORAGE and not sqlite.is_file():
        return None, ""  # loading Optuna takes a second
    from rlready.workflow.search.stored import stored_report, stored_studies

    if name is not None:
        return stored_report(storage, name, space), ""
    names = stored_studies(storage)
    if len(names) != 1:
        known = f": {', '.join(names)}" if names else ""
        return None, f"{storage} holds {len(names)} studies{known}; --study NAME shows one"
    try:
        return stored_report(storage, names[0], space), ""
    except RlreadyError as error:
        return None, f"study {names[0]} is not shown: {error}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}", why=error.strerror or "", fix="Give another file to --out"
        ) from error


def comparison_view(comparison: Comparison, level: float) -> Iterator[Any]:
    """Yield the tables and lines of one comparison."""
    a, b = comparison.a["name"], comparison.b["name"]
    yield f"A is {a} ({comparison.a['id'][:12]}), B is {b} ({comparison.b['id'][:12]})"
    rows = [
        (each.benchmark, name.replace("pass_at_", "pass@"), *_cells(metric), _flips(each, name))
        for each in comparison.benchmarks
        for name, metric in each.metrics.items()
    ]
    rows += [
        (each.heldout_set, "loss (nats)", *_cells(each.difference), "")
        for each in comparison.losses
    ]
    if rows:
        headings = ("measured on", "metric", "B - A", f"{level:.0%} interval", "n", "gained / lost")
        words = ("measured on", "metric")
        caption = "?: not clear. Loss in nats per token. Samples and more: --out FILE.html"
        yield table("Paired differences", headings, rows, caption=caption, words=words)
    for each in comparison.benchmarks:
        yield from _flipped(f"{each.benchmark}: solved by B only", each.gained)
        yield from _flipped(f"{each.benchmark}: solved by A only", each.lost)
    for loss in comparison.losses:
        yield from _changed(f"{loss.heldout_set}: the loss fell most", loss.better)
        yield from _changed(f"{loss.heldout_set}: the loss rose most", loss.worse)
    if comparison.recipe:
        yield table(
            "Recipe",
            ("field", "A", "B"),
            [(key, _text(x), _text(y)) for key, (x, y) in comparison.recipe.items()],
            words=("field", "A", "B"),
        )
    for text in comparison.notes:
        yield f"note: {text}"


def _cells(difference: PairedDifference) -> tuple[str, str, str]:
    interval = "unknown"
    if difference.low is not None and difference.high is not None:
        interval = f"{difference.low:+.3f} to {difference.high:+.3f}"
    mark = "" if difference.is_clear else " ?"
    return f"{difference.value:+.3f}{mark}", interval, str(difference.n)


def _flips(comparison: Any, name: str) -> str:
    if name != "pass_at_1" or comparison.n_gained is None:
        return ""
    return f"{comparison.n_gained} / {comparison.n_lost}"


def _flipped(title: str, problems: Sequence[FlippedProblem]) -> Iterator[Any]:
    if problems:
        rows = [(p.problem_id, f"{p.share_a:.0%}", f"{p.share_b:.0%}") for p in problems]
        headings = ("problem", "A correct", "B correct")
        yield table(title, headings, rows, words=("problem",))


def _changed(title: str, examples: Sequence[ExampleDifference]) -> Iterator[Any]:
    if examples:
        rows = [
            (e.example_id, f"{e.loss_a:.3f}", f"{e.loss_b:.3f}", str(e.n_tokens))
            for e in examples[:_EXAMPLES]
        ]
        yield table(title, ("example", "A", "B", "tokens"), rows, words=("example",))


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
