"""What a library and its child processes print, in a file instead of on the terminal.

vLLM starts processes that write tens of lines each, and its own exception only says that the cause
stands above. The file keeps everything, and `cause_in` finds the cause in it.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_BYTES = 4 << 20
_MAX_CHARS = 240
# At the end of a traceback; before it stands the prefix of vLLM's logger, if it was logged:
# `(EngineCore pid=9) ERROR 11-29 09:13:05 [core.py:1202] ValueError: ...`
_LOGGER = r"(?:\([^()]*\) )*(?:[A-Z]+ [^\[\]]*\[[^\]]*\] )?"
_EXCEPTION = re.compile(rf"^{_LOGGER}((?:\w+\.)*\w*(?:Error|Exception|Interrupt): .+)")
_ELSEWHERE = re.compile(r"root cause|stack trace|background process|see above", re.IGNORECASE)


@contextmanager
def captured_output(path: Path) -> Iterator[None]:
    """Write stdout and stderr of this process into a new file, on the level of the system.

    Processes that are started meanwhile keep writing to the file. Without an open stdout and
    stderr, nothing is captured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    try:
        saved = [os.dup(number) for number in (1, 2)]
    except OSError:
        yield
        return
    try:
        with path.open("wb") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        yield
    finally:
        _flush()
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def cause_in(path: Path) -> str | None:
    """Return the last exception in a log that does not refer to another one; None without any."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MAX_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    found = (_EXCEPTION.match(line) for line in reversed(lines))
    causes = (match[1] for match in found if match and not _ELSEWHERE.search(match[1]))
    cause = next(causes, None)
    return textwrap.shorten(cause, _MAX_CHARS, placeholder=" ...") if cause else None


def refers_elsewhere(error: BaseException) -> bool:
    """Return whether an exception only says that its cause was printed."""
    return bool(_ELSEWHERE.search(str(error)))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
