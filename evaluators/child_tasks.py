r"""What a child process of `workers.Pool` does: take tasks from a pipe, work within limits, reply.

    -> [[7, "gold", "\\frac{1}{2}", "0.5"], [8, ...]]    one request: a list of tasks
    <- [7, true, false]                                   one line a task: index, result, restart

A result that is a text is the reason why the task failed. After a failure the process asks for a
successor (`restart`) and ends: work that was cut off may have left anything behind. It ends as
well when its standard input does, so it does not outlive its parent.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

_Handler = Callable[..., Any]


class OutOfTime(BaseException):
    """Raised by the alarm. No `Exception`: the libraries that do the work swallow those."""


def serve(make_handler: Callable[[], _Handler], *, place: str, timeout_s: float) -> None:
    """Handle tasks until the parent closes standard input, or one fails.

    Args:
        make_handler: imports what is needed and returns the function of a task's fields.
        place: where an exception came from, for people, for example `the algebra`.
        timeout_s: for one task.
    """
    requests, replies = _private_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, _on_alarm)
    handler = make_handler()
    _send(replies, ["ready"])
    for line in requests:
        for index, *fields in json.loads(line):
            result = _within(timeout_s, handler, fields, place)
            failed = isinstance(result, str)
            _send(replies, [index, result, failed])
            if failed:
                return


def limit_memory(n_bytes: int) -> None:
    """Let this process have so much address space, and leave no core file."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    n_bytes = n_bytes if hard == resource.RLIM_INFINITY else min(n_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, hard))


def _within(timeout_s: float, handler: _Handler, fields: list[Any], place: str) -> Any:
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        return handler(*fields)
    except OutOfTime:
        return f"not done within {timeout_s:g} s"
    except Exception as error:  # whatever the work raises: this task failed, and says why
        return f"{type(error).__name__} in {place}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _on_alarm(signum: int, frame: object) -> NoReturn:
    raise OutOfTime


def _private_pipes() -> tuple[Any, Any]:
    """The pipes to the parent; whatever a library prints goes nowhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return requests, replies


def _send(replies: Any, message: list[Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()
