"""The child process of the answer check: a task is [kind, gold, answer], a result true or false.

Run as `python -m rlready.evaluators.verification._child TIMEOUT_SECONDS MEMORY_MB`. The parent sets
the environment: without gmpy2 every long computation can be interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rlready.evaluators.child_tasks import limit_memory, serve


def main() -> None:
    """Serve until the parent closes standard input."""
    limit_memory(int(sys.argv[2]) << 20)
    serve(_make_judge, place="the algebra", timeout_s=float(sys.argv[1]))


def _make_judge() -> Callable[..., Any]:
    from rlready.evaluators.verification.verifier import Judge

    return Judge()


if __name__ == "__main__":
    main()
