"""Files that a reader sees complete or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` for the new content, which takes its place at the end.

    Any number of processes and threads may write one file at once: each has a name of its own, and
    the last one stays. If the body or the renaming fails, `path` is as it was and nothing is left.

    Example:
        >>> with replacing(Path("status.json")) as temporary:
        ...     temporary.write_text("{}")
    """
    temporary = path.with_name(f".tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
