"""The sub-command that searches recipes: `search init | ask | tell | sync | run | report`."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click

from rlready.registry.errors import ConfigError
from rlready.workflow.flags import CommonFlags, Flag, Seed, command, split_paths
from rlready.workflow.terminal import echo, echo_json, print_view

if TYPE_CHECKING:
    from rlready.workflow.search.folder import TrialResult
    from rlready.workflow.search.open import Search

STORAGE = "sqlite:///search.db"
"""The default database of studies."""

_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class SearchFlags:
    """Arguments and flags of `rlready search`; `Args:` holds their help.

    Args:
        action: init, ask, tell, sync, run or report.
        trial: tell: number of the trial; init: file to write, instead of --space.
        space: TOML file of the recipes that may be proposed.
        study: Name of the study.  [default: name of the space file]
        storage: Database of the study: SQLite if all workers run on one machine, postgresql://...
            if they run on several.
        sampler: Method that proposes recipes.
        trials: ask: number of proposals; run: number of recipes to train.
        train_command: run: command that trains a recipe. It may contain {recipe} (the file
            recipe.toml), {out} (the trial's folder) and, if the space file has [rungs], {rung}. It
            adds "value", "checkpoint" or "rungs" to status.json in the trial's folder.
        out: Folder for the trials, which are written to a folder with the study's name in it.
        data: File with the rows of a source, in place of its path in the space file; each trial
            gets a manifest of its rows. Repeatable.
        value: tell: outcome; higher is better.
        se: tell: standard error of --value.
        checkpoint: tell: registered checkpoint, or its folder, which is evaluated if the space
            file has [evaluate]. Its recorded outcome is told, or else the predicted one.
        cost: tell: cost of the trial, if the space file names a `cost`.  [default: from
            status.json]
        target: Outcome to search for, by its column in `rlready table`.  [default: the only one]
        predictor: Registered predictor, for checkpoints without an outcome.
        lease: Hours until a trial of a silent worker is offered again; run renews its own lease.
        retries: How often a trial is offered again.
        worker: Name of the worker that asks.  [default: host and process]
        seed: Seed of proposals and manifests.
        cold: Do not read or write the registry: the search starts without its runs.
    """

    action: Literal["init", "ask", "tell", "sync", "run", "report"] = field(kw_only=False)
    trial: Annotated[str | None, Flag(metavar="[TRIAL|FILE]")] = field(kw_only=False, default=None)
    space: Annotated[Path, Flag(metavar="FILE.toml")] = Path("space.toml")
    study: str | None = None
    storage: str = STORAGE
    sampler: Literal["surrogate", "gp", "tpe", "random"] = "surrogate"
    trials: Annotated[int, click.IntRange(1)] = 1
    train_command: Annotated[str | None, Flag(metavar="CMD")] = None
    out: Path = Path("search")
    data: Annotated[tuple[str, ...], Flag(metavar="NAME=FILE", split=split_paths)] = ()
    value: Annotated[float | None, Flag(metavar="V")] = None
    se: Annotated[float | None, Flag(metavar="X")] = None
    checkpoint: Annotated[str | None, Flag(metavar="ID")] = None
    cost: Annotated[float | None, Flag(metavar="C")] = None
    target: Annotated[str | None, Flag(metavar="KEY")] = None
    predictor: Annotated[str, Flag(metavar="NAME")] = "grpo-predictor"
    lease: Annotated[float, click.FloatRange(0.0, min_open=True), Flag(metavar="HOURS")] = 24.0
    retries: Annotated[int, click.IntRange(0)] = 2
    worker: str | None = None
    seed: Seed = 0
    cold: bool = False


@command
def search(flags: SearchFlags, common: CommonFlags) -> None:
    """Search for the SFT recipe with the best outcome, with your own trainer in the loop.

    \b
    init     FILE: write a commented space file to start from
    ask      propose recipes; each gets a folder with recipe.toml
    tell     TRIAL --value V, or --checkpoint ID: record the result of a trial
    sync     record the results of all finished folders
    run      ask, train with --train-command, tell
    report   rank the recipes, and show the response surface of each source

    Any number of workers share a study through --storage. A study starts with the checkpoints of
    the registry, with their outcome or, if they have none, a predicted one.
    """  # noqa: D301 - click reads \b as "keep these lines"
    _check_flags(flags)
    if flags.action == "init":
        _init(Path(flags.trial) if flags.trial else flags.space, common.as_json)
        return
    actions = {"ask": _ask, "tell": _tell, "sync": _sync, "run": _run, "report": _report}
    result = actions[flags.action](_opened(flags, common), flags, common.as_json)
    if common.as_json:
        echo_json(result)
    trials = result["trials"] if flags.action == "run" else []
    if trials and all(trial["state"] == "failed" for trial in trials):
        raise ConfigError(
            f"no trial was trained: {len(trials)} of {len(trials)} failed",
            fix="Correct what the lines above describe; the next call asks for new recipes",
        )


def _init(path: Path, as_json: bool) -> None:
    from rlready.predictors.search.space_file import write_template

    write_template(path)
    if as_json:
        echo_json({"space": str(path)})
        return
    echo(f"{path} is written. Put your sources into it. Then: rlready search ask --space {path}")


def _check_flags(flags: SearchFlags) -> None:
    action, trial = flags.action, flags.trial
    names = ("value", "checkpoint", "se", "cost")
    is_set = {name: getattr(flags, name) is not None for name in names}
    if action == "tell" and (trial is None or is_set["value"] == is_set["checkpoint"]):
        raise ConfigError(
            "tell needs a trial and either --value or --checkpoint",
            fix="For example: rlready search tell 7 --space mix.toml --value 0.61 --se 0.01",
        )
    if action == "run" and flags.train_command is None:
        raise ConfigError(
            "run needs --train-command",
            fix="Give it, or train by other means: rlready search ask, then sync",
        )
    if trial is not None and action == "tell" and not re.fullmatch("[0-9]{1,9}", trial):
        raise ConfigError(f"{trial!r} is not the number of a trial", fix="For example: tell 7")
    has_subject = trial is not None and action != "init"
    if action != "tell" and (any(is_set.values()) or has_subject):
        raise ConfigError(f"{action} takes no trial, --value, --se, --checkpoint or --cost")
    if is_set["se"] and not is_set["value"]:
        raise ConfigError("--se goes with --value; a checkpoint has its own")


def _opened(flags: SearchFlags, common: CommonFlags) -> Search:
    from rlready.workflow.search.mirror import Mirror
    from rlready.workflow.search.open import SearchConfig, open_search
    from rlready.workflow.search.registry import RegistryValues

    registry = mirror = None
    if not flags.cold:
        store = common.open_store()
        # Telling a value neither reads the registry nor creates one.
        is_asked = flags.action != "tell" or flags.checkpoint is not None
        if is_asked:
            registry = RegistryValues(store=store, target=flags.target, predictor=flags.predictor)
        if flags.action != "report":
            mirror = Mirror(store=store, is_wanted=is_asked, warn=_warn)
    config = SearchConfig(
        space=flags.space,
        study=flags.study,
        storage=flags.storage,
        sampler=flags.sampler,
        folder=flags.out,
        data=_data(flags.data),
        worker=flags.worker or f"{platform.node()}:{os.getpid()}",
        lease_s=flags.lease * _HOUR_S,
        max_retries=flags.retries,
        seed=flags.seed,
    )
    return open_search(config, registry, mirror=mirror, progress=common.clock())


def _warn(text: str) -> None:
    echo(f"warning: {text}", err=True)


def _ask(search: Search, flags: SearchFlags, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.search.run import ask, outlook_of, sync

    problems = sync(search, evaluate=False).problems
    _say_warm_start(search)
    _say_problems(problems)
    trials, handed = [], []
    for _ in range(flags.trials):
        trials.append(ask(search))
        handed.append(trials[-1].to_dict())
        if not as_json:
            echo(_handed_line(handed[-1]))
    outlook = outlook_of(search, trials)
    if outlook is not None and not as_json:
        echo(outlook.text)
    return {
        "study": search.name,
        "outlook": None if outlook is None else outlook.to_dict(),
        "trials": handed,
        "warm_start": asdict(search.warm_start),
        "notes": search.notes,
        "problems": problems,
    }


def _tell(search: Search, flags: SearchFlags, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.search.trial import Trial

    assert flags.trial is not None
    result = Trial(search, int(flags.trial)).tell(
        value=flags.value, se=flags.se, checkpoint=flags.checkpoint, cost=flags.cost
    )
    search.show()
    if not as_json:
        echo(_result_line(result))
    return asdict(result)


def _sync(search: Search, flags: SearchFlags, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.search.run import sync

    synced = sync(search)
    _say_problems(synced.problems)
    if not as_json:
        for result in synced.done:
            echo(_result_line(result))
        echo(f"{len(synced.done)} trials ended, {len(synced.waiting)} not finished yet")
    return asdict(synced)


def _run(search: Search, flags: SearchFlags, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.search.run import run

    _say_warm_start(search)
    results = run(
        search,
        flags.train_command or "",
        flags.trials,
        say=lambda text: echo(text, err=True),
        report=lambda result: None if as_json else echo(_result_line(result)),
    )
    notes = search.notes
    return {"study": search.name, "trials": [asdict(one) for one in results], "notes": notes}


def _report(search: Search, flags: SearchFlags, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.cli.views.search_report import report_view, write_report
    from rlready.workflow.report.page import page
    from rlready.workflow.report.study import study_page
    from rlready.workflow.search.folder import write_text
    from rlready.workflow.search.report import search_report

    report = search_report(search.study, search.space, cost=search.cost)
    folder = search.root / "report"
    files = write_report(report, folder)
    files.append(folder / "report.html")
    write_text(files[-1], page(study_page(report, datetime.now(UTC))))
    if not as_json:
        print_view(report_view(report))
        for path in files:
            echo(str(path))
    return {**report.to_dict(), "files": [str(path) for path in files]}


def _handed_line(values: dict[str, Any]) -> str:
    words = [f"trial {values['trial']} ({values['origin']}): {values['folder']}"]
    if values["rung"] is not None:
        words.append(f"up to step {values['rung']}")
    if values["predicted"] is not None:
        words.append(f"predicted {values['predicted']:.4g} +- {values['predicted_sd']:.2g}")
    if values["domain_reason"]:
        words.append(f"domain {values['domain']}: {values['domain_reason']}")
    if values["retries"]:
        words.append(f"offered again, {values['retries']} times so far")
    return "; ".join(words)


def _result_line(result: TrialResult) -> str:
    if result.state == "failed":
        return f"trial {result.trial} failed: {result.reason}"
    if result.state == "stopped":
        return f"trial {result.trial} stopped: {result.reason}"
    if result.state == "waiting":
        return (
            f"trial {result.trial} is trained, and waits for `rlready search sync`: {result.reason}"
        )
    error = "" if result.se is None else f" +- {result.se:.2g}"
    notes = "" if result.is_new else " (known before)"
    notes += f" ({result.public or 'predicted'})" if result.is_predicted else ""
    return f"trial {result.trial} told: {result.value:.6g}{error}{notes}"


def _say_warm_start(search: Search) -> None:
    warm = search.warm_start
    if warm.n_added or warm.left_out:
        notes = {"predicted": warm.n_predicted, "in place of their prediction": warm.n_superseded}
        details = ", ".join(f"{n} {what}" for what, n in notes.items() if n)
        echo(
            f"{warm.n_added} runs of the registry were added{f' ({details})' if details else ''}, "
            f"{len(warm.left_out)} are left out",
            err=True,
        )
    for name, reason in warm.left_out[:3]:
        echo(f"  {name[:12]}: {reason}", err=True)
    for note in search.notes:
        echo(note, err=True)


def _say_problems(problems: Sequence[tuple[int, str]]) -> None:
    for number, reason in problems:
        echo(f"trial {number} waits for you: {reason}", err=True)


def _data(texts: tuple[str, ...]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in texts]
    for parts in pairs:
        if not all(parts):
            raise ConfigError(f"--data {''.join(parts)}", fix="Write NAME=FILE")
    return {name: Path(file) for name, _, file in pairs}
