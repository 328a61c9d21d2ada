"""Trains what a search proposes, by the user's command, and tells what came of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rlready.registry.errors import ConfigError, RlreadyError, StoreError
from rlready.workflow.search.ask import Handed, Search, Told, ask, fail
from rlready.workflow.search.folder import read_status, write_status
from rlready.workflow.search.trial import tell_status

_LINES_KEPT = 12
_KILL_AFTER_S = 10.0


def run(
    search: Search,
    train_command: str,
    n_trials: int,
    *,
    say: Callable[[str], None] = lambda text: None,
    told: Callable[[Told], None] = lambda one: None,
) -> list[Told]:
    """Ask, train by the user's command, and tell, `n_trials` times; a failed one counts.

    The command's words may hold {recipe} (recipe.toml), {out} (the trial's folder) and {trial}; it
    is run without a shell, and leaves its result in status.json.

    Raises:
        ConfigError: if the command cannot be started at all.
    """
    words = command_words(train_command)
    done = []
    for _ in range(n_trials):
        done.append(_one_trial(search, words, say))
        told(done[-1])
    return done


def command_words(template: str) -> list[str]:
    """The words of a training command.

    Raises:
        ConfigError: if its quotes are open, or it does not take the recipe.
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
    return words


def _one_trial(search: Search, words: Sequence[str], say: Callable[[str], None]) -> Told:
    handed = ask(search)
    number, folder = handed.asked.number, handed.folder
    say(f"trial {number}: training in {folder}")
    write_status(folder, state="running")
    code = _train(search, words, handed)
    try:
        status = read_status(folder)
        if status.state == "failed" or code != 0:
            reason = status.error or f"the training command ended with {code}"
            return fail(search, number, f"{reason}: {_last_lines(folder)}")
        if status.value is None and status.checkpoint is None:
            raise ConfigError("the training command left neither value nor checkpoint")
        return tell_status(search, number, status)
    except StoreError as error:
        # What was trained is not lost for a registry that is away: the next sync asks it again.
        search.leases.extend(number, search.leases.clock())
        return Told(trial=number, state="waiting", reason=str(error))
    except RlreadyError as error:
        return fail(search, number, str(error))


def _train(search: Search, words: Sequence[str], handed: Handed) -> int:
    """Exit status of the command; the lease is renewed while it runs."""
    folder = handed.folder.resolve()
    places = {
        "{recipe}": str(folder / "recipe.toml"),
        "{out}": str(folder),
        "{trial}": str(handed.asked.number),
    }
    lease = search.leases.renew(handed.lease) or handed.lease
    with (folder / "train.log").open("wb") as log:
        try:
            process = subprocess.Popen(
                [_filled(word, places) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            search.leases.release(lease)
            raise ConfigError(
                f"the training command {words[0]!r} cannot be started",
                why=error.strerror or str(error),
            ) from error
        try:
            while True:
                try:
                    return process.wait(timeout=search.leases.period_s / 3.0)
                except subprocess.TimeoutExpired:
                    lease = search.leases.renew(lease) or lease
        finally:
            if process.poll() is None:
                _end(process)
                search.leases.release(lease)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_KILL_AFTER_S)
            return


def _filled(word: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        word = word.replace(name, value)
    return word


def _last_lines(folder: Path) -> str:
    with (folder / "train.log").open(encoding="utf-8", errors="replace") as log:
        lines = [line.rstrip() for line in deque(log, maxlen=_LINES_KEPT)]
    return "\n".join(lines) or "it printed nothing"
