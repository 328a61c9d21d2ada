"""Rewards from a user's own function, which runs in child processes that can be killed.

    def reward(prompt: str, completion: str, row: dict) -> float: ...

`row` is the row of the file of prompts, as JSON values. The function may print, import anything and
keep what it computed; one child calls it for many samples. A call that raises, hangs or returns no
finite number gives no reward: that sample is UNSCORED, with the reason. The function is the user's
own code and is trusted: only its time is limited.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rlready.evaluators.child_tasks import child_arguments
from rlready.evaluators.process_pool import Pool, TaskFailure
from rlready.registry.errors import ConfigError, EvaluationError

GRACE_S = 2.0
"""Time between the alarm inside a child process and the kill from outside."""

_FUNCTION = "RLREADY_REWARD_FUNCTION"
_MESSAGE_CHARS = 200
_USE = "Give module:function or file.py:function, with function(prompt, completion, row) -> float"

Answer = Mapping[str, Any] | str
"""What a child returns: a reward or why there is none; a text ends the child."""


class RewardChild:
    """The child's side: loads the function that the environment names, and calls it."""

    def __init__(self, _memory_mb: int) -> None:
        name = os.environ[_FUNCTION]
        try:
            self._function: Callable[..., Any] | None = _loaded(name)
            self._fault = ""
        # Whatever the user's module raises when it is imported becomes a message.
        except (Exception, SystemExit) as error:
            self._function, self._fault = None, _described(error)

    def __call__(self, task: str, *fields: Any) -> Answer:
        """Return the reward of a sample; for the task `check`, whether there is a function."""
        if self._function is None:
            return {"unscored": self._fault}
        if task == "check":
            return {}
        try:
            reward = self._function(*fields)
        except MemoryError:
            return "it ran out of memory"
        except (Exception, SystemExit) as error:
            return {"unscored": f"it raised {_described(error)}"}
        number = _number(reward)
        if number is None:
            return {"unscored": f"it returned {_shown(reward)}, not a finite number"}
        return {"reward": number}


class RewardFunction:
    """A user's reward function in child processes, which start when they are first needed.

    Args:
        name: `module:function` or `file.py:function`. Modules are also looked up in the working
            directory.
        n_workers: number of child processes.
        timeout_s: time limit of one call.

    Example:
        with RewardFunction("my_rewards:exact", n_workers=2) as function:
            rewards, reasons = function.rewards([("2+2", "It is 4", {"answer": "4"})])
    """

    def __init__(self, name: str, *, n_workers: int = 1, timeout_s: float = 10.0) -> None:
        module, colon, function = name.rpartition(":")
        if not (module.strip() and colon and function.strip()):
            raise ConfigError(f"--reward {name!r} does not name a function", fix=_USE)
        if not timeout_s > 0.0:
            raise ConfigError(f"--reward-timeout is {timeout_s}", fix="Give seconds above 0")
        self.name, self.timeout_s = name, timeout_s
        self._pool = Pool(
            child_arguments(f"{__name__}:RewardChild", timeout_s, 0),
            environment={_FUNCTION: name, "OMP_NUM_THREADS": "1"},
            n_workers=n_workers,
            timeout_s=timeout_s + GRACE_S,
            name="the reward function",
        )

    def __enter__(self) -> RewardFunction:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes. A later call starts new ones."""
        self._pool.close()

    def check(self) -> None:
        """Load the function in a child.

        Raises:
            ConfigError: if it cannot be loaded.
        """
        try:
            ((_, answer),) = self._pool.run([("check",)])
        except EvaluationError as error:
            raise ConfigError(
                f"--reward {self.name} cannot be loaded", why=error.why, fix=_USE
            ) from error
        fault = _reason(answer)
        if fault is not None:
            raise ConfigError(f"--reward {self.name} cannot be loaded", why=fault, fix=_USE)

    def rewards(
        self,
        samples: Sequence[tuple[str, str, Mapping[str, Any]]],
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[list[float | None], Counter[str]]:
        """Return the reward of each sample, None for UNSCORED ones, and the reasons with counts.

        Args:
            samples: prompt, completion and row of each sample.
            on_progress: called with the number of newly finished samples.

        Raises:
            EvaluationError: if no child process can be started.
        """
        rewards: list[float | None] = [None] * len(samples)
        reasons: Counter[str] = Counter()
        tasks = [("reward", prompt, text, plain_row(row)) for prompt, text, row in samples]
        for index, answer in self._pool.run(tasks):
            reason = _reason(answer)
            if reason is None:
                rewards[index] = float(answer["reward"])
            else:
                reasons[reason] += 1
            if on_progress is not None:
                on_progress(1)
        return rewards, reasons


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON values: exact decimals become numbers, bytes base64, dates texts."""
    return {str(name): _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain_row(value)
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    is_json = value is None or isinstance(value, str | bool | int | float)
    return value if is_json else str(value)


def _reason(answer: Any) -> str | None:
    """Return why a task has no reward; None if it has one."""
    if isinstance(answer, TaskFailure):
        return answer.reason
    return answer if isinstance(answer, str) else answer.get("unscored")


def _loaded(name: str) -> Callable[..., Any]:
    place, _, path = name.rpartition(":")
    # At the end, so that a file beside the prompts cannot stand in for a library.
    sys.path.append(str(Path.cwd()))
    if place.endswith(".py"):
        file = Path(place).resolve()
        sys.path.append(str(file.parent))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        if spec is None or spec.loader is None or not file.is_file():
            raise FileNotFoundError(f"there is no file {place}")
        found: Any = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = found
        spec.loader.exec_module(found)
    else:
        found = importlib.import_module(place)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{path} is a {type(found).__name__}, not a function")
    function: Callable[..., Any] = found
    return function


def _number(value: Any) -> float | None:
    """Return a finite number, also from a NumPy or torch scalar; None for anything else."""
    if isinstance(value, str | bytes) or value is None:
        return None
    try:
        number = float(value)
    # A foreign type may raise anything.
    except Exception:
        return None
    return number if math.isfinite(number) else None


def _described(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return " ".join(text.split())[:_MESSAGE_CHARS]


def _shown(value: Any) -> str:
    is_small = isinstance(value, float | int | str | None.__class__)
    text = repr(value)[:40] if is_small else f"a {type(value).__name__}"
    return " ".join(text.split())
