"""Errors that an input, a file, a server or a model's answer causes.

    RlreadyError
    ├── ConfigError        an invalid flag, suite file or setting
    ├── RecordError        a record whose fields contradict each other
    ├── CheckpointError    a folder that is not a loadable, safe checkpoint
    ├── BenchmarkError     problems or held-out examples that cannot be used
    ├── SamplesError       samples on disk that cannot be read or written
    ├── EvaluationError    a number that is undefined for these samples
    ├── CurveError         an RL curve that cannot be read, or is too short for a statistic
    └── StoreError         a registry that cannot be reached, or holds contradicting facts

Each message says what happened, why, and what to do. The command line prints it without a
traceback and exits with code 2. Faults of rlready itself are ordinary exceptions.
"""

from __future__ import annotations

from rlready.registry.redaction import redacted


class RlreadyError(Exception):
    """A mistake of the user or the environment, in three parts, without passwords and keys.

    Args:
        what: what happened, with the value and the id.
        why: the reason, if it is known.
        fix: what to do about it.

    Example:
        >>> str(RlreadyError("k is 0", fix="Give 1 or more"))
        'k is 0. Give 1 or more.'
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        # Redacted here, once: most messages quote a library or a flag.
        self.what, self.why, self.fix = map(redacted, (what, why, fix))
        parts = (self.what, self.why, self.fix)
        super().__init__(" ".join(_sentence(part) for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:
        # Unpickling would use `args`, the joined message, and lose the parts on the way out of a
        # worker process.
        return (_rebuild, (type(self), self.what, self.why, self.fix))


class ConfigError(RlreadyError):
    """An invalid flag, suite file or setting."""


class RecordError(RlreadyError):
    """A record whose fields contradict each other."""


class CheckpointError(RlreadyError):
    """A folder that is not a loadable, safe checkpoint."""


class BenchmarkError(RlreadyError):
    """Problems or held-out examples that cannot be used."""


class SamplesError(RlreadyError):
    """Samples on disk that cannot be read or written."""


class EvaluationError(RlreadyError):
    """A number that is undefined for these samples."""


class CurveError(RlreadyError):
    """An RL curve that cannot be read, or is too short for a statistic."""


class StoreError(RlreadyError):
    """A registry that cannot be reached, or holds contradicting facts."""


def _rebuild(kind: type[RlreadyError], what: str, why: str, fix: str) -> RlreadyError:
    return kind(what, why=why, fix=fix)


def _sentence(part: str) -> str:
    return part if part.endswith((".", "!", "?", ":")) else part + "."
