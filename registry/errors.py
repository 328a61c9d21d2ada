"""What can go wrong because of an input, a file, a server or a model's answer.

    RlreadyError
    ├── ConfigError        a flag, a suite file or a setting that cannot be meant
    ├── RecordError        a record whose fields contradict each other
    ├── CheckpointError    a folder that is not a loadable, safe checkpoint
    ├── BenchmarkError     problems or held-out examples that cannot be used
    ├── SamplesError       samples on disk that cannot be read or written
    ├── EvaluationError    a number that is undefined for these samples
    ├── CurveError         an RL curve that cannot be read, or cannot give a statistic
    └── StoreError         the registry cannot be reached, or holds something that contradicts this

Each message says what happened, why, and what to do. The command line prints it without a
traceback and exits with code 2. Mistakes of our own stay ordinary exceptions.
"""

from __future__ import annotations

from rlready.registry.redaction import redacted


class RlreadyError(Exception):
    """A user's or an environment's mistake, told in three parts, without passwords and keys.

    Args:
        what: what happened, with the value and the id in it.
        why: the reason, if it is known.
        fix: what to do about it.
    """

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        # Here, and not where each message is made: most quote what a library or a flag said.
        self.what, self.why, self.fix = map(redacted, (what, why, fix))
        parts = (self.what, self.why, self.fix)
        super().__init__(" ".join(_sentence(part) for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:
        # The default rebuilds from `args`, the joined message, and would lose the parts on the
        # way out of a worker process.
        return (_rebuild, (type(self), self.what, self.why, self.fix))


class ConfigError(RlreadyError):
    """A flag, a suite file or a setting that cannot be meant."""


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
    """An RL curve that cannot be read, or cannot give a statistic."""


class StoreError(RlreadyError):
    """The registry cannot be reached, or holds something that contradicts this."""


def _rebuild(kind: type[RlreadyError], what: str, why: str, fix: str) -> RlreadyError:
    return kind(what, why=why, fix=fix)


def _sentence(part: str) -> str:
    return part if part.endswith((".", "!", "?", ":")) else part + "."
