"""From a path to tallies and curves: which files are read, by which reader, and what is said.

A file is recognised by the names of its fields (`tools/known.py`), never by its place alone. What
is not recognised is listed with what was found in it, and what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlready.registry.errors import SamplesError
from rlready.registry.records import AnswerFormat
from rlready.workflow.importers import curves
from rlready.workflow.importers.curves import LoggedCurve, logged_curves
from rlready.workflow.importers.drawn import Drawn, Form, Logged, Note, Settings
from rlready.workflow.importers.source_files import SourceFile, files_below
from rlready.workflow.importers.source_rows import shown_names
from rlready.workflow.importers.tally import Series, Tally, uneven
from rlready.workflow.importers.tools.known import FORMS, TOOLS, beside, matches

AUTO = "auto"
_LISTED = 5
_SPLIT = ("areal", "open-instruct")
"""Tools that write several files for one benchmark and step."""


@dataclass(frozen=True, kw_only=True)
class HowToRead:
    """How the files are read.

    Args:
        score: the field, metric or scorer that says whether a sample is correct.
        correct_above: a score above this is correct; None accepts only 0 and 1.
        percent: whether scores are percentages.
        answer_format: where rlready looks for the answer of a completion.
        check: whether rlready checks the texts itself.
        run: name of the run, where a file holds several.
    """

    score: str | None = None
    correct_above: float | None = None
    percent: bool = False
    answer_format: AnswerFormat = "auto"
    check: bool = True
    run: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the files of a tool hold.

    Args:
        tool: the tool that wrote them.
        files: files that were read, with their forms.
        left_out: files that were not read, with the reason.
        series: samples by benchmark, step and problem.
        curves: numbers that the trainer logged.
        correct_above: a score above this is correct.
        settings: how samples were drawn, by series, as far as the tool says it.
        notes: remarks for the user.
    """

    tool: str
    files: Sequence[tuple[Path, str]]
    left_out: Sequence[tuple[Path, str]]
    series: Sequence[Series]
    curves: Sequence[LoggedCurve]
    correct_above: float
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read(
    tool: str,
    path: Path,
    how: HowToRead | None = None,
    advance: Callable[[int], None] | None = None,
) -> Reading:
    """Read the files of a tool at or below a path.

    Args:
        tool: one of `known.TOOLS`, or `auto`.
        path: a file or a folder.
        how: how scores and texts are read.
        advance: called with the number of further samples.

    Raises:
        SamplesError: if a file cannot be read (with file, line and field), or none is recognised.
    """
    from rlready.evaluators.verification.verifier import Verifier

    how = how or HowToRead()
    chosen, left_out = _choose(tool, path)
    name = chosen[0][1].tool
    notes: list[str] = []
    numbers: list[Logged] = []
    settings: dict[str, dict[str, Any]] = {}
    files_of: dict[tuple[str, int | None], Path] = {}
    with ExitStack() as stack:
        verifier = stack.enter_context(Verifier()) if how.check else None
        tally = Tally(verifier, how.answer_format, how.correct_above, how.percent, advance)
        for file, form in chosen:
            for item in form.read(file, how.score):
                if isinstance(item, Drawn):
                    _one_file(item, file, form, files_of)
                    tally.add(item)
                elif isinstance(item, Note):
                    notes.append(item.text)
                elif isinstance(item, Settings):
                    settings.setdefault(item.series, dict(item.values))
                else:
                    numbers.append(item)
        tally.flush()
    notes += [f"left out {each}: {why}" for each, why in left_out if "cannot be read" in why]
    found = logged_curves(numbers, how.percent)
    if how.run is not None:
        found = _of_run(found, how.run)
    series = list(tally.series.values())
    if not series and not found:
        raise SamplesError(
            f"the files of {name} in {path} hold neither samples nor scores",
            why=f"read: {_listed([file.path for file, _ in chosen])}",
        )
    notes += curves.notes(found)
    notes += [
        f"{s}{'' if step is None else f', step {step}'}: {n} samples were replaced by later rows "
        "with the same index, as a resumed run writes them"
        for (s, step), n in tally.n_replaced.items()
    ]
    for each in series:
        for step, problems in each.steps.items():
            text = uneven(problems)
            if text is not None:
                notes.append(f"{each.name}{'' if step is None else f', step {step}'}: {text}")
    return Reading(
        tool=name,
        files=[(file.path, form.what) for file, form in chosen],
        left_out=left_out,
        series=series,
        curves=found,
        correct_above=tally.correct_above,
        settings=settings,
        notes=notes,
    )


def _choose(tool: str, path: Path) -> tuple[list[tuple[SourceFile, Form]], list[tuple[Path, str]]]:
    """Return the files to read with their forms, and the others with the reason."""
    files, refused = files_below(path)
    left_out = [
        (each, "it may hold a pickle, and reading a pickle can run its author's code")
        for each in refused
    ]
    forms = [form for form in FORMS if tool in (AUTO, form.tool)]
    chosen: list[tuple[SourceFile, Form]] = []
    for file in files:
        reason = beside(file) if path.is_dir() else ""
        try:
            fitting = [] if reason else _fitting(forms, file)
            names = shown_names(file.names) if not reason else ""
        except SamplesError as error:
            if path.is_file():
                raise
            fitting, reason = [], f"cannot be read: {error}"
        if fitting:
            chosen.append((file, fitting[0]))
        else:
            left_out.append((file.path, reason or f"not recognised: it has {names}"))
    if not chosen:
        raise _nothing(tool, path, forms, left_out)
    tools = list(dict.fromkeys(form.tool for _, form in chosen))
    if len(tools) > 1 and "table" in tools:  # the names of a table are common
        tools.remove("table")
        left_out += [
            (file.path, f"a plain table beside files of {tools[0]}")
            for file, form in chosen
            if form.tool == "table"
        ]
        chosen = [(file, form) for file, form in chosen if form.tool != "table"]
    if len(tools) > 1:
        examples = {form.tool: file.path for file, form in reversed(chosen)}
        raise SamplesError(
            f"{path} holds files of {len(tools)} tools",
            why="; ".join(f"{name}: {examples[name]}" for name in tools),
            fix=f"Name one: rlready import {tools[0]} PATH, or name a folder or file of one tool",
        )
    return chosen, left_out


def _one_file(
    drawn: Drawn, file: SourceFile, form: Form, files_of: dict[tuple[str, int | None], Path]
) -> None:
    """Refuse samples of one benchmark and step in two files, unless the tool splits its files.

    They may be of two models, of two runs, or of the prompts of training and of validation.
    """
    if form.tool in _SPLIT:
        return
    first = files_of.setdefault((drawn.series, drawn.step), file.path)
    if first != file.path:
        step = "" if drawn.step is None else f" at step {drawn.step}"
        raise SamplesError(
            f"samples of {drawn.series}{step} are in two files: {first} and {file.path}",
            why="they may be of two models or two runs, and are not added up",
            fix="Name one of them, or the folder of one run",
        )


def _fitting(forms: Sequence[Form], file: SourceFile) -> list[Form]:
    """Return the forms that a file has, the one that asks for most names first."""
    fitting = [form for form in forms if matches(form, file)]
    return sorted(fitting, key=lambda form: (form.tool == "table", -len(form.needs)))


def _nothing(
    tool: str, path: Path, forms: Sequence[Form], left_out: Sequence[tuple[Path, str]]
) -> SamplesError:
    found = "; ".join(f"{each}: {reason}" for each, reason in left_out[:_LISTED])
    more = f"; and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else ""
    expected = "; ".join(dict.fromkeys(_expected(form) for form in forms))
    other = "" if tool == AUTO else _other_tool(path, tool)
    return SamplesError(
        f"no file of {'a known tool' if tool == AUTO else tool} in {path}",
        why=f"found: {found}{more}" if found else "it holds no file that could be read",
        fix=other
        or (
            f"Known tools: {', '.join(TOOLS)}; a plain table of problem, n and c is read by "
            "`rlready import table`"
            if tool == AUTO
            else f"Expected: {expected}"
            + ("; `rlready outcome --curve` reads scores at steps" if tool == "table" else "")
        ),
    )


def _other_tool(path: Path, tool: str) -> str:
    """Return which tool wrote the files, if another one did."""
    files, _ = files_below(path)
    others = [
        f.tool for file in files for f in _fitting(FORMS, file) if f.tool not in (tool, "table")
    ]
    name = next(iter(dict.fromkeys(others)), None)
    return f"These are files of {name}: rlready import {name} PATH" if name else ""


def _expected(form: Form) -> str:
    names = sorted(form.needs) or ["a score at a step, such as " + _example(form.tool)]
    return f"{form.what} ({', '.join(form.suffixes)}) with {', '.join(names)}"


def _example(tool: str) -> str:
    examples = {
        "verl": "val-core/gsm8k/acc/mean@4",
        "trl": "eval_rewards/accuracy_reward/mean",
        "prime-rl": "eval/gsm8k/avg@4",
        "nemo-rl": "validation/accuracy",
        "skyrl": "eval/gsm8k/avg_score",
        "areal": "eval-rollout/reward",
        "open-instruct": "eval/pass_at_1",
        "openrlhf": "eval_gsm8k_pass1",
        "slime": "eval/gsm8k",
        "tinker": "test/env/all/reward/total",
    }
    return examples.get(tool, "a score")


def _of_run(found: list[LoggedCurve], run: str) -> list[LoggedCurve]:
    runs = list(dict.fromkeys(curve.run for curve in found if curve.run))
    if run not in runs:
        raise SamplesError(
            f"there is no run {run!r}", fix=f"The runs are {', '.join(runs) or 'without a name'}"
        )
    return [curve for curve in found if curve.run == run]


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(str(path) for path in paths[:_LISTED]) + more
