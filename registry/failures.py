"""Messages for failures: one line for expected ones, a log file for faults of rlready.

Users see one line. The traceback goes to a file that only they can read, without passwords.

    error: rlready failed with KeyError: 'x'. This is a fault of rlready. Details are in
    ~/.cache/rlready/errors/20261128-130459-k3x9.log; please report it with that file.
"""

from __future__ import annotations

import errno
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from rlready.registry.digest import default_cache_dir
from rlready.registry.errors import RlreadyError
from rlready.registry.redaction import redacted

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + 2
EXIT_PIPE_CLOSED = 128 + 13
"""The last two are a shell's exit codes for a process that SIGINT or SIGPIPE ended."""

_SHOWN_CHARACTERS = 300
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_FIXES = {
    **dict.fromkeys(_NO_SPACE, "Make room, and repeat the call: finished results are kept"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Give a place where you may read and write, or ask its owner for the right",
    ),
    errno.EISDIR: "Give a file, not a folder",
    errno.ENOTDIR: "Give a path whose folders are folders",
    errno.ENOENT: "Correct the path",
    errno.EMFILE: "Raise the limit of open files: ulimit -n 4096",
    errno.ENAMETOOLONG: "Give a shorter name",
}


def foreseen(error: BaseException) -> str | None:
    """Return one line for a failure that the user can fix; None for a fault of rlready."""
    if isinstance(error, RlreadyError):
        return str(error)
    if isinstance(error, OSError):
        return _of_the_machine(error)
    if isinstance(error, UnicodeEncodeError):
        text = error.object[max(0, error.start - 40) : error.end + 40]
        return (
            f"the text {text!r} holds an invalid character. A name or path is not UTF-8, "
            "or a JSON file holds half of a character. Correct it."
        )
    if isinstance(error, ImportError) and not (error.name or "rlready").startswith("rlready"):
        return f"the package {error.name} is missing or broken: {error}. Install it."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "the memory of this machine or device is full. Give a smaller --batch-size or fewer "
            "--jobs, and repeat the call: finished results are kept."
        )
    return None


def fault(error: BaseException, uris: Sequence[str | None] = ()) -> str:
    """Return one line for a fault of rlready, with the file that its traceback was written to.

    Passwords in `uris` are removed from the line and the file.
    """
    what = f"{type(error).__name__}: {error}".strip().partition("\n")[0][:_SHOWN_CHARACTERS]
    facts = [
        f"rlready {version('rlready')}, Python {platform.python_version()}, {platform.platform()}",
        f"time: {time.strftime('%Y-%m-%d %H:%M:%S')}",
        f"command: {' '.join(sys.argv)}",
        "",
    ]
    details = "\n".join([*facts, "".join(traceback.format_exception(error))])
    where = _written(redacted(details, *uris))
    return (
        f"rlready failed with {redacted(what, *uris)}. This is a fault of rlready. {where}"
        " Finished results are kept."
    )


def _of_the_machine(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    places = [str(place) for place in (error.filename, error.filename2) if place is not None]
    where = f"{' and '.join(places)}: " if places else ""
    fix = _FIXES.get(error.errno or 0, "")
    return redacted(f"{where}{what}." + (f" {fix}." if fix else ""))


def _written(text: str) -> str:
    """Write the details to a file; return a sentence that names it."""
    name = time.strftime("%Y%m%d-%H%M%S-")
    for folder in (default_cache_dir().parent / "errors", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # mkstemp sets mode 0600: a command line or a path may be private.
            descriptor, path = tempfile.mkstemp(".log", f"rlready-{name}", folder)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return f"Details are in {path}; please report it with that file."
    return "Its details could not be written to a file; please report it with the command."
