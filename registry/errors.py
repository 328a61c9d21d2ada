"""Errors that an input, a file, a server or a model's answer causes; all are `RlreadyError`s.

Each message says what happened, why, and what to do. The command line prints it without a
traceback and exits with code 2. Faults of rlready itself are ordinary exceptions.
"""

from __future__ import annotations

from functools import partial

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
        first, reason = self.what, self.why
        if reason[:1].islower() and first.isprintable():
            first, reason = f"{first.removesuffix('.')}: {reason}", ""
        super().__init__(" ".join(_sentence(part) for part in (first, reason, self.fix) if part))

    def __reduce__(self) -> tuple[object, ...]:
        # Unpickling would use `args`, the joined message, and lose the parts on the way out of a
        # worker process.
        return (partial(type(self), self.what, why=self.why, fix=self.fix), ())


class ConfigError(RlreadyError):
    """An invalid flag, suite file or setting.

    Example:
        >>> raise ConfigError("k is 0", fix="Give 1 or more")
        Traceback (most recent call last):
        rlready.registry.errors.ConfigError: k is 0. Give 1 or more.
    """


class RecordError(RlreadyError):
    """A record whose fields contradict each other.

    Example:
        >>> Recipe(epochs=-1)
        Traceback (most recent call last):
        rlready.registry.errors.RecordError: recipe epochs is -1. Give a positive number.
    """


class CheckpointError(RlreadyError):
    """A folder that is not a loadable, safe checkpoint.

    Example:
        >>> fingerprint(Path("empty"))
        Traceback (most recent call last):
        rlready.registry.errors.CheckpointError: empty is not a checkpoint: it holds no ...
    """


class BenchmarkError(RlreadyError):
    """Problems or held-out examples that cannot be used.

    Example:
        >>> load_heldout(Path("none.jsonl"))
        Traceback (most recent call last):
        rlready.registry.errors.BenchmarkError: held-out file none.jsonl cannot be read. ...
    """


class SamplesError(RlreadyError):
    """Samples on disk that cannot be read or written.

    Example:
        >>> raise SamplesError("cannot write samples/a.parquet", why="No space left on device")
        Traceback (most recent call last):
        rlready.registry.errors.SamplesError: cannot write samples/a.parquet. No space ...
    """


class EvaluationError(RlreadyError):
    """A number that is undefined for these samples.

    Example:
        >>> pass_at_k(n=4, c=1, k=8)
        Traceback (most recent call last):
        rlready.registry.errors.EvaluationError: pass@8 is undefined for 4 scored ...
    """


class CurveError(RlreadyError):
    """An RL curve that cannot be read, or is too short for a statistic.

    Example:
        >>> read_curves(Path("none.csv"), "steps")
        Traceback (most recent call last):
        rlready.registry.errors.CurveError: cannot read none.csv. ...
    """


class StoreError(RlreadyError):
    """A registry that cannot be reached, or holds contradicting facts.

    Example:
        >>> MemoryStore().find("step-500")
        Traceback (most recent call last):
        rlready.registry.errors.StoreError: no checkpoint 'step-500' in the registry. ...
    """


def _sentence(part: str) -> str:
    return part if part.endswith((".", "!", "?", ":")) else part + "."
