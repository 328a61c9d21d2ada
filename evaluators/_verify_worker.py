r"""The child process of the answer check: requests come in as JSON lines, verdicts go out.

    -> [[7, "gold", "\\frac{1}{2}", "0.5"], [8, ...]]    one request: a list of tasks
    <- [7, true, false]                                   one line a task: index, result, restart

The result is true, false, or the reason why the check failed. After a failure the process asks
for a successor (`restart`) and ends: algebra that was cut off may have left anything behind.
It ends as well when its standard input does, so it does not outlive its parent.

Run as `python -m rlready.evaluators._verify_worker TIMEOUT_SECONDS MEMORY_MB`. The parent sets
the environment: without gmpy2 every long computation can be interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, NoReturn


class OutOfTime(BaseException):
    """Raised by the alarm. No `Exception`: the algebra swallows those."""


def main() -> None:
    """Serve until the parent closes standard input."""
    timeout_s, memory_mb = float(sys.argv[1]), int(sys.argv[2])
    requests, replies = _private_pipes()
    _limit(memory_mb)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, _on_alarm)

    from rlready.evaluators.verify import Judge

    judge = Judge()
    _send(replies, ["ready"])
    for line in requests:
        for index, task, gold, answer in json.loads(line):
            result = _within(timeout_s, judge, task, gold, answer)
            failed = isinstance(result, str)
            _send(replies, [index, result, failed])
            if failed:
                return


def _within(timeout_s: float, judge: Any, task: str, gold: str, answer: str) -> bool | str:
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        result: bool | str = judge(task, gold, answer)
        return result
    except OutOfTime:
        return f"not decided within {timeout_s:g} s"
    except Exception as error:  # whatever the algebra raises: this check failed, and says why
        return f"{type(error).__name__} in the algebra"
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


def _limit(memory_mb: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = memory_mb << 20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def _send(replies: Any, message: list[Any]) -> None:
    replies.write(json.dumps(message).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
