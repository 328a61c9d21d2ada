r"""The child's side of `process_pool.Pool`: tasks from a pipe are handled within limits.

    python -m rlready.evaluators.child_tasks MODULE:FACTORY TIMEOUT_SECONDS MEMORY_MB

    -> [[7, "gold", "\\frac{1}{2}", "0.5"], [8, ...]]    one request: a list of tasks
    <- [7, true, false]                                  one line per task: index, result, restart

A text as the result is the reason why the task failed. After a failure the process asks for a new
process (`restart`) and ends, because interrupted work may have left libraries in an unknown state.
It also ends when its standard input is closed, so that it does not outlive its parent.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class OutOfTime(BaseException):
    """Raised by the alarm. It is not an `Exception`, which libraries may catch."""


def child_arguments(factory: str, timeout_s: float, memory_mb: int) -> list[str]:
    """Return the arguments with which Python runs this module as a child.

    Args:
        factory: `module:name` of a callable. It takes `memory_mb`, limits the memory, imports the
            libraries and returns the function that handles the fields of a task.
        timeout_s: time limit of one task.
        memory_mb: memory limit; the factory defines what counts.
    """
    # Without -P a json.py in the caller's folder would be imported.
    return ["-P", "-m", __name__, factory, str(timeout_s), str(memory_mb)]


def main() -> None:
    """Handle tasks until the parent closes standard input, or a task fails."""
    factory, timeout_s, memory_mb = sys.argv[1:]
    module, _, name = factory.partition(":")
    requests, replies = _private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    handler = getattr(importlib.import_module(module), name)(int(memory_mb))
    _send(replies, ["ready"])
    for line in requests:
        for index, *fields in json.loads(line):
            result = _within(float(timeout_s), handler, fields)
            failed = isinstance(result, str)
            _send(replies, [index, result, failed])
            if failed:
                return


def limit_memory(n_bytes: int) -> None:
    """Limit the address space of this process, and forbid core files."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    n_bytes = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, hard))


def _within(timeout_s: float, handler: Callable[..., Any], fields: list[Any]) -> Any:
    # Each time, because a library may have set a handler of its own.
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return handler(*fields)
    except OutOfTime:
        return f"not done within {timeout_s:g} s"
    except Exception as error:  # any error only fails this task
        return f"it raised {type(error).__name__}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _on_alarm(signum: int, frame: object) -> NoReturn:
    raise OutOfTime


def _private_pipes() -> tuple[Any, Any]:
    """Return the pipes to the parent; anything that a library prints is discarded."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return requests, replies


def _send(replies: Any, message: list[Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
