"""The sub-command that searches recipes: `search run | ask | tell | sync | report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rlready.registry.errors import ConfigError
from rlready.workflow.cli.options import (
    FILE,
    SEED,
    TEXT,
    Optional,
    console,
    open_store,
    print_view,
    registry_options,
    several_paths,
)
from rlready.workflow.terminal import echo

if TYPE_CHECKING:
    from rlready.workflow.search.open import Search
    from rlready.workflow.search.trial import Told

_HOUR_S = 3600.0


@click.command(context_settings={"show_default": True})
@click.argument("action", type=click.Choice(["run", "ask", "tell", "sync", "report"]))
@click.argument("trial", type=Optional(int), default="")
@click.option(
    "--space", type=FILE, required=True, metavar="FILE.toml", help="Recipes that may be proposed."
)
@click.option(
    "--study",
    type=TEXT,
    default="",
    show_default=False,
    help="Its name.  [default: that of the space file]",
)
@click.option(
    "--storage",
    default="sqlite:///search.db",
    help="Database of the study: SQLite for the workers of one machine, "
    "postgresql://... for those of many.",
)
@click.option(
    "--sampler",
    type=click.Choice(["surrogate", "gp", "tpe", "random"]),
    default="surrogate",
    help="Who proposes recipes.",
)
@click.option(
    "--trials", type=click.IntRange(1), default=1, help="ask: proposals; run: recipes to train."
)
@click.option(
    "--train-command",
    type=TEXT,
    default="",
    show_default=False,
    metavar="CMD",
    help="run: what trains a recipe, with {recipe} (recipe.toml), {out} (the trial's folder) and, "
    'with [rungs], {rung} in it. It adds "value", "checkpoint" or "rungs" to status.json there.',
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("search"),
    help="Where the trials' folders go, below the study's name.",
)
@click.option(
    "--data",
    multiple=True,
    callback=several_paths,
    metavar="NAME=FILE",
    help="JSONL file of a source; trials then get a manifest of its rows. Repeatable.",
)
@click.option(
    "--value",
    type=Optional(float),
    default="",
    show_default=False,
    metavar="V",
    help="tell: outcome, more is better.",
)
@click.option(
    "--se",
    type=Optional(float),
    default="",
    show_default=False,
    metavar="X",
    help="tell: standard error of --value.",
)
@click.option(
    "--checkpoint",
    type=TEXT,
    default="",
    show_default=False,
    metavar="ID",
    help="tell: registered checkpoint, or its folder, which is evaluated if the space file's "
    "[evaluate] says how; its recorded outcome counts, or else the predicted one.",
)
@click.option(
    "--cost",
    type=Optional(float),
    default="",
    show_default=False,
    metavar="C",
    help="tell: what the trial cost, where the space file names a `cost`; else status.json says.",
)
@click.option(
    "--target",
    type=TEXT,
    default="",
    show_default=False,
    metavar="KEY",
    help="Outcome that is searched for, as `rlready table` names it.  [default: the only one]",
)
@click.option(
    "--predictor",
    default="grpo-predictor",
    metavar="NAME",
    help="Registered predictor of checkpoints without an outcome.",
)
@click.option(
    "--lease",
    type=click.FloatRange(0.0, min_open=True),
    default=24.0,
    metavar="HOURS",
    help="A trial whose worker is silent for so long is offered again; run renews its own.",
)
@click.option(
    "--retries", type=click.IntRange(0), default=2, help="How often a trial is offered again."
)
@click.option(
    "--worker",
    type=TEXT,
    default="",
    show_default=False,
    help="Who asks.  [default: host and process]",
)
@click.option("--seed", type=SEED, default=0, help="Of proposals and manifests.")
@click.option(
    "--cold", is_flag=True, help="Leave the registry alone: no runs to begin with from it."
)
@registry_options
def search(action: str, trial: int | None, as_json: bool, **flags: Any) -> None:
    """Search SFT recipes by outcome, with your own trainer in the loop.

    \b
    ask      propose recipes; each becomes a folder with recipe.toml
    tell     TRIAL --value V, or --checkpoint ID
    sync     take in the folders that are finished
    run      ask, train by --train-command, tell
    report   ranked recipes and the response surface of each source

    Any number of workers share a study through --storage. The registry's checkpoints are runs to
    begin with, those without an outcome by their prediction.
    """  # noqa: D301 - click reads \b as "keep these lines"
    _check_flags(action, trial, flags)
    opened = _opened(action, {**flags, "as_json": as_json})
    found = {
        "ask": lambda: _ask(opened, flags["trials"], as_json),
        "tell": lambda: _tell(opened, trial, flags, as_json),
        "sync": lambda: _sync(opened, as_json),
        "run": lambda: _run(opened, flags, as_json),
        "report": lambda: _report(opened, as_json),
    }[action]()
    if as_json:
        echo(json.dumps(found, ensure_ascii=False))
    if action == "run":
        _check_any_succeeded(found["trials"])


def _check_flags(action: str, trial: int | None, flags: dict[str, Any]) -> None:
    told = [name for name in ("value", "checkpoint") if flags[name] is not None]
    if action == "tell" and (trial is None or len(told) != 1):
        raise ConfigError(
            "tell needs a trial and either --value or --checkpoint",
            fix="For example: rlready search tell 7 --space mix.toml --value 0.61 --se 0.01",
        )
    if action == "run" and flags["train_command"] is None:
        raise ConfigError(
            "run needs --train-command",
            fix="Give it, or train by other means: rlready search ask, then sync",
        )
    stray = [name for name in ("value", "checkpoint", "se", "cost") if flags[name] is not None]
    if action != "tell" and (stray or trial is not None):
        raise ConfigError(f"{action} takes no trial, --value, --se, --checkpoint or --cost")
    if flags["se"] is not None and flags["value"] is None:
        raise ConfigError("--se goes with --value; a checkpoint has its own")


def _opened(action: str, flags: dict[str, Any]) -> Search:
    from rlready.workflow.progress import Clock
    from rlready.workflow.search.mirror import MirrorTo
    from rlready.workflow.search.open import SearchConfig, open_search
    from rlready.workflow.search.registry import RegistryValues

    registry = mirror = None
    if not flags["cold"]:
        store = open_store(flags["tracking_uri"], flags["experiment"])
        # Telling a value asks nothing of the registry, and makes none.
        is_asked = action != "tell" or flags["checkpoint"] is not None
        if is_asked:
            registry = RegistryValues(
                store=store, target=flags["target"], predictor=flags["predictor"]
            )
        if action != "report":
            mirror = MirrorTo(
                store=store,
                is_wanted=is_asked,
                warn=lambda text: echo(f"warning: {text}", err=True),
            )
    config = SearchConfig(
        space=flags["space"],
        study=flags["study"],
        storage=flags["storage"],
        sampler=flags["sampler"],
        folder=flags["out"],
        data=_data(flags["data"]),
        worker=flags["worker"] or _worker(),
        lease_s=flags["lease"] * _HOUR_S,
        max_retries=flags["retries"],
        seed=flags["seed"],
    )
    progress = None if flags["as_json"] else Clock(console())
    return open_search(config, registry, mirror=mirror, progress=progress)


def _ask(search: Search, n: int, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.search.ask import ask, sync

    problems = sync(search, evaluate=False).problems
    _say_warm_start(search)
    _say_problems(problems)
    trials = []
    for _ in range(n):
        trials.append(ask(search).to_dict())
        if not as_json:
            echo(_handed_line(trials[-1]))
    return {
        "study": search.config.name,
        "trials": trials,
        "warm_start": asdict(search.warm_start),
        "problems": problems,
    }


def _tell(
    search: Search, trial: int | None, flags: dict[str, Any], as_json: bool
) -> dict[str, Any]:
    from rlready.workflow.search.trial import Trial

    assert trial is not None
    told = Trial(search, trial).tell(
        **{name: flags[name] for name in ("value", "se", "checkpoint", "cost")}
    )
    search.show()
    if not as_json:
        echo(_told_line(told))
    return asdict(told)


def _sync(search: Search, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.search.ask import sync

    synced = sync(search)
    _say_problems(synced.problems)
    if not as_json:
        for told in synced.done:
            echo(_told_line(told))
        echo(f"{len(synced.done)} taken in, {len(synced.waiting)} not finished yet")
    return asdict(synced)


def _run(search: Search, flags: dict[str, Any], as_json: bool) -> dict[str, Any]:
    from rlready.workflow.search.run import run

    _say_warm_start(search)
    results = run(
        search,
        flags["train_command"],
        flags["trials"],
        say=lambda text: echo(text, err=True),
        report=lambda told: None if as_json else echo(_told_line(told)),
    )
    return {"study": search.config.name, "trials": [asdict(told) for told in results]}


def _check_any_succeeded(trials: Sequence[dict[str, Any]]) -> None:
    if trials and all(trial["state"] == "failed" for trial in trials):
        raise ConfigError(
            f"no trial was trained: {len(trials)} of {len(trials)} failed",
            fix="Mend what the lines above say; the next call asks for new recipes",
        )


def _report(search: Search, as_json: bool) -> dict[str, Any]:
    from rlready.workflow.cli.search_report_view import report_view, write_report
    from rlready.workflow.search.report import search_report

    report = search_report(search.study, search.space, cost=search.settings.cost)
    files = write_report(report, search.root / "report")
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


def _told_line(told: Told) -> str:
    if told.state == "failed":
        return f"trial {told.trial} failed: {told.reason}"
    if told.state == "stopped":
        return f"trial {told.trial} stopped: {told.reason}"
    if told.state == "waiting":
        return f"trial {told.trial} is trained, and waits for `rlready search sync`: {told.reason}"
    error = "" if told.se is None else f" +- {told.se:.2g}"
    notes = "" if told.is_new else " (known before)"
    notes += " (predicted)" if told.is_predicted else ""
    return f"trial {told.trial} told: {told.value:.6g}{error}{notes}"


def _say_warm_start(search: Search) -> None:
    warm = search.warm_start
    if warm.n_added or warm.left_out:
        notes = {"predicted": warm.n_predicted, "in place of their prediction": warm.n_superseded}
        said = ", ".join(f"{n} {what}" for what, n in notes.items() if n)
        echo(
            f"{warm.n_added} runs of the registry entered{f' ({said})' if said else ''}, "
            f"{len(warm.left_out)} are left out",
            err=True,
        )
    for name, reason in warm.left_out[:3]:
        echo(f"  {name[:12]}: {reason}", err=True)


def _say_problems(problems: Sequence[tuple[int, str]]) -> None:
    for number, reason in problems:
        echo(f"trial {number} waits for you: {reason}", err=True)


def _data(given: tuple[str, ...]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in given]
    for name, equals, file in pairs:
        if not (name and equals and file):
            raise ConfigError(f"--data {name}{equals}{file}", fix="Write NAME=FILE")
    return {name: Path(file) for name, _, file in pairs}


def _worker() -> str:
    import os
    import platform

    return f"{platform.node()}:{os.getpid()}"
