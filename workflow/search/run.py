"""Trains what a search proposes, by the user's command, and tells the study what it gave."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from rlready.registry.errors import ConfigError, RlreadyError, StoreError
from rlready.workflow.search.ask import ask
from rlready.workflow.search.folder import read_status, write_status
from rlready.workflow.search.open import Search
from rlready.workflow.search.trial import Told, Trial

_LOG_LINES = 12
_KILL_AFTER_S = 10.0


def run(
    search: Search,
    train_command: str,
    n_trials: int,
    *,
    say: Callable[[str], None] = lambda text: None,
    report: Callable[[Told], None] = lambda told: None,
) -> list[Told]:
    """Ask, train by the user's command, and tell, `n_trials` times; a failed one counts.

    The command's words may hold {recipe} (recipe.toml), {out} (the trial's folder), {trial} and,
    where the space file has rungs, {rung}; it is run without a shell, and leaves its result in
    status.json. With rungs, it is run once for each rung until the trial is told, stopped or
    failed.

    Args:
        search: that asks.
        train_command: of the user.
        n_trials: to train.
        say: is called with a line before each training.
        report: is called with each trial that has ended.

    Raises:
        ConfigError: if the command cannot be started at all.
    """
    words = command_words(train_command, has_rungs=search.rungs is not None)
    results = []
    for _ in range(n_trials):
        trial = ask(search)
        told = None
        while told is None:
            rung = trial.step
            up_to = "" if rung is None else f", up to step {rung}"
            say(f"trial {trial.number}: training in {trial.folder}{up_to}")
            write_status(trial.folder, state="running", rung=rung)
            told = _result(trial, rung, _train(trial, words, rung))
        search.show()
        report(told)
        results.append(told)
    return results


def command_words(template: str, *, has_rungs: bool = False) -> list[str]:
    """The words of a training command.

    Raises:
        ConfigError: if its quotes are open, or it does not take the recipe or the rung.
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


def _result(trial: Trial, rung: int | None, code: int) -> Told | None:
    """What became of a trial whose command has ended; None if it goes on to its next rung."""
    folder = trial.folder
    try:
        status = read_status(folder)
        if status.state == "failed" or code != 0:
            reason = status.error or f"the training command ended with {code}"
            return trial.fail(f"{reason}: {_last_lines(folder)}")
        told = trial.take_in(status)
        if told is None and (rung is None or rung not in status.rungs):
            wanted = "" if rung is None else f"no value of step {rung} in rungs, and "
            raise ConfigError(
                f"the training command left {wanted}neither value nor checkpoint in status.json"
            )
        return told
    except StoreError as error:
        # The trained checkpoint is not lost when the registry is away: the next sync asks again.
        trial.renew()
        return Told(trial=trial.number, state="waiting", reason=str(error))
    except RlreadyError as error:
        return trial.fail(str(error))


def _train(trial: Trial, words: Sequence[str], rung: int | None) -> int:
    """Exit status of the command; the lease is renewed while it runs."""
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
    """End a command and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_KILL_AFTER_S)
            return


def _last_lines(folder: Path) -> str:
    with (folder / "train.log").open(encoding="utf-8", errors="replace") as log:
        lines = [line.rstrip() for line in deque(log, maxlen=_LOG_LINES)]
    return "\n".join(lines) or "it printed nothing"
