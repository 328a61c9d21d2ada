"""Calls of MLflow: without its output, and with an expected error as None.

stdout is for JSON, stderr for messages of rlready.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

MISSING = "RESOURCE_DOES_NOT_EXIST"
EXISTS = "RESOURCE_ALREADY_EXISTS"
"""Error codes of MLflow, for `or_none`."""

_SILENT = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress logs, printed links and warnings of MLflow and its dependencies inside the block.

    Errors still arrive as exceptions. A user who sets MLFLOW_LOGGING_LEVEL sees the logs. Log lines
    of other threads are lost meanwhile.
    """
    network = logging.getLogger("urllib3")
    level, unset = network.level, set(_SILENT) - set(os.environ)
    was_loud = _set_loud(False)
    os.environ.update({name: _SILENT[name] for name in unset})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            network.setLevel(logging.CRITICAL)
            yield
        finally:
            network.setLevel(level)
            _set_loud(was_loud)
            for name in unset:
                os.environ.pop(name, None)


def or_none(code: str, call: Callable[..., Result], *args: Any, **options: Any) -> Result | None:
    """Return the result of a call, or None if MLflow answers with this error code.

    Asking first would not do: other processes create and delete things between two calls.
    """
    from mlflow.exceptions import MlflowException

    try:
        return call(*args, **options)
    except MlflowException as error:
        if error.error_code != code:
            raise
    return None


def import_quietly() -> None:
    """Import MLflow inside `quiet`, which can only silence an imported MLflow."""
    import mlflow  # noqa: F401  # for its effect on logging

    _set_loud(False)


def _set_loud(is_loud: bool) -> bool:
    """Open or close the stream of MLflow's logs; return its previous state."""
    module = sys.modules.get("mlflow.utils.logging_utils")
    if module is None or "MLFLOW_LOGGING_LEVEL" in os.environ:
        return True
    stream = module.MLFLOW_LOGGING_STREAM
    before = bool(stream.enabled)
    stream.enabled = is_loud
    return before
