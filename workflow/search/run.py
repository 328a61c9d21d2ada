"""Ask for trials, train them by the user's command, and take in their results.

Any number of workers share a study. The study stores the trials and their leases; a trial's folder
passes the recipe to the trainer and the result back. No step needs the worker of the step before
it: if a worker is killed, the next call of any worker continues its trials.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlready.predictors.search.outlook import Outlook, study_outlook
from rlready.registry.errors import ConfigError, RlreadyError, StoreError
from rlready.workflow.search.folder import (
    DAMAGED,
    TrialResult,
    contents,
    read_status,
    write_status,
)
from rlready.workflow.search.open import Search
from rlready.workflow.search.trial import Trial

_LOG_LINES = 12
_KILL_AFTER_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Synced:
    """Results of the trials' folders.

    Args:
        done: trials that were told, stopped or marked failed now.
        waiting: trials that are not finished.
        problems: (trial, reason) of folders that cannot be used.
    """

    done: tuple[TrialResult, ...]
    waiting: tuple[int, ...]
    problems: tuple[tuple[int, str], ...]


def ask(search: Search) -> Trial:
    """Return a trial for this worker: one whose lease has expired, or else a new one.

    Results of finished folders are told first, so that the new proposal uses them.

    Example:
        >>> trial = ask(open_search(SearchConfig(space=Path("mix.toml"))))
        >>> trial.folder
        PosixPath('search/mix/trial-0000')

    Raises:
        ConfigError: if no recipe keeps the limits of the space, or a source's file cannot be used.
    """
    sync(search, evaluate=False)
    return Trial.next(search)


def outlook_of(search: Search, trials: Sequence[Trial]) -> Outlook | None:
    """Return what the most promising of some trials can win; see `study_outlook`."""
    recipes, numbers = [trial.recipe for trial in trials], [trial.number for trial in trials]
    return study_outlook(search.study, search.space, recipes, asked=numbers)


def sync(search: Search, *, evaluate: bool = True) -> Synced:
    """Tell the study the results in the trials' folders, and give up trials that nobody finishes.

    A changed status file shows that the trainer is alive: the lease is extended.

    Args:
        search: the open search.
        evaluate: whether to evaluate checkpoints that are not registered, and to write all ended
            trials to MLflow. This may take long.
    """
    done: list[TrialResult] = []
    problems: dict[int, str] = {}
    signs_of_life: dict[int, float] = {}
    trials = Trial.all(search)
    for trial in trials:
        status_file = trial.folder / "status.json"
        if not status_file.is_file():
            continue
        try:
            result = trial.sync(evaluate=evaluate)
            done += [] if result is None else [result]
            signs_of_life[trial.number] = status_file.stat().st_mtime
        except RlreadyError as error:
            problems[trial.number] = str(error)
            with contextlib.suppress(RlreadyError):
                if read_status(trial.folder).is_finished:
                    # A person has to correct the file; training again would not help.
                    signs_of_life[trial.number] = search.clock()
    with search.lock():
        open_trials = [trial for trial in trials if not trial.frozen.state.is_finished()]
        for trial in open_trials:
            trial.check_lease(signs_of_life.get(trial.number))
    if done or evaluate:
        search.show(everything=evaluate)
    waiting = [t.number for t in open_trials if t.number in signs_of_life.keys() - problems.keys()]
    return Synced(done=tuple(done), waiting=tuple(waiting), problems=tuple(problems.items()))


def run(
    search: Search,
    train_command: str,
    n_trials: int,
    *,
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[TrialResult], None] = lambda result: None,
) -> list[TrialResult]:
    """Ask for a trial, train it by the user's command and tell its result, `n_trials` times.

    The command may contain {recipe} (recipe.toml), {out} (the trial's folder), {trial} and, if the
    space file has rungs, {rung}. It runs without a shell, and writes its result to status.json.
    With rungs, it runs once for each rung until the trial is told, stopped or failed.

    Args:
        search: the open search.
        train_command: the user's command.
        n_trials: number of trials to train; failed ones count.
        say: called with a line before each training, and first with what searching can win.
        report: called with the result of each trial.

    Raises:
        ConfigError: if the command cannot be started at all.
    """
    words = command_words(train_command, has_rungs=search.rungs is not None)
    results = []
    for number in range(n_trials):
        trial = ask(search)
        if number == 0:
            outlook = outlook_of(search, [trial])
            if outlook is not None:
                say(outlook.text)
        result = None
        while result is None:
            rung = trial.step
            up_to = "" if rung is None else f", up to step {rung}"
            say(f"trial {trial.number}: training in {trial.folder}{up_to}")
            write_status(trial.folder, state="running", rung=rung)
            result = _result(trial, rung, _train(trial, words, rung))
        search.show()
        report(result)
        results.append(result)
    return results


def command_words(template: str, *, has_rungs: bool = False) -> list[str]:
    """Split a training command into words.

    Raises:
        ConfigError: if a quote is not closed, or the recipe or the rung is not in it.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise ConfigError(f"the training command {template!r}", why=str(error)) from error
    if not any("{recipe}" in word or "{out}" in word for word in words):
        raise ConfigError(
            f"the training command {template!r} does not say where the recipe goes",
            fix='For example --train-command "python train.py --recipe {recipe} --out {out}"',
        )
    if has_rungs != any("{rung}" in word for word in words):
        raise ConfigError(
            f"the training command {template!r} "
            + ("does not take the rung" if has_rungs else "takes a {rung}"),
            why=f"the space file has {'a' if has_rungs else 'no'} table [rungs]",
            fix="{rung} is the step up to which the command goes on with its training in {out}",
        )
    return words


def _result(trial: Trial, rung: int | None, code: int) -> TrialResult | None:
    """Return the result of a trial whose command has ended; None if it has another rung."""
    folder = trial.folder
    try:
        if not (folder / "status.json").is_file():
            raise ConfigError(
                "the training command removed status.json",
                why=f"{folder} holds {contents(folder)}",
                fix="Let it change the file, and leave the other keys in it",
            )
        try:
            status = read_status(folder)
        except ConfigError as error:
            raise ConfigError(
                f"the training command left a status.json that cannot be used: {error.what}",
                why=f"{error.why + '; ' if error.why else ''}{folder} holds {contents(folder)}",
                fix=f"Its text is in {DAMAGED}; `rlready search tell {trial.number} --value V` "
                "records a value that it has",
            ) from error
        if status.state == "failed" or code != 0:
            ended = f"ended with {code}" if code else 'wrote the state "failed" and no error'
            reason = status.error or f"the training command {ended}"
            return trial.fail(f"{reason}: {_last_lines(folder)}")
        result = trial.take_in(status)
        if result is None and (rung is None or rung not in status.rungs):
            wanted = "" if rung is None else f"no value of step {rung} in rungs, and "
            raise ConfigError(
                f"the training command left {wanted}neither value nor checkpoint in status.json",
                why=f"{folder} holds {contents(folder)}",
                fix='Let it add "value", or "checkpoint" with the name of its folder',
            )
        return result
    except StoreError as error:
        # If the registry does not answer, the checkpoint is not lost: the next sync tries again.
        trial.renew()
        return TrialResult(trial=trial.number, state="waiting", reason=str(error))
    except RlreadyError as error:
        return trial.fail(str(error))


def _train(trial: Trial, words: Sequence[str], rung: int | None) -> int:
    """Run the command, renew the lease while it runs, and return its exit status."""
    folder = trial.folder.resolve()
    places = {
        "{recipe}": str(folder / "recipe.toml"),
        "{out}": str(folder),
        "{trial}": str(trial.number),
        "{rung}": str(rung),
    }
    filled = list(words)
    for name, value in places.items():
        filled = [word.replace(name, value) for word in filled]
    trial.renew()
    is_first = trial.search.rungs is None or rung == trial.search.rungs.steps[0]
    with (folder / "train.log").open("wb" if is_first else "ab") as log:
        try:
            process = subprocess.Popen(
                filled,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            trial.release()
            raise ConfigError(
                f"the training command {words[0]!r} cannot be started",
                why=error.strerror or str(error),
            ) from error
        try:
            while True:
                try:
                    return process.wait(timeout=trial.search.config.lease_s / 3.0)
                except subprocess.TimeoutExpired:
                    trial.renew()
        finally:
            if process.poll() is None:
                _end(process)
                trial.release()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_KILL_AFTER_S)
            return


def _last_lines(folder: Path) -> str:
    lines: list[str] = []
    with (
        contextlib.suppress(FileNotFoundError),  # the command may have removed it
        (folder / "train.log").open(encoding="utf-8", errors="replace") as log,
    ):
        lines = [line.rstrip() for line in deque(log, maxlen=_LOG_LINES)]
    return "\n".join(lines) or "it printed nothing"
