"""Held-out losses on disk, so that no example is scored twice.

samples/<checkpoint>/heldout-<digest of set, template, version>.json   sums of each example
samples/<checkpoint>/token-nll-<digest of the tokens, version>.npz     of each scored token

Both digests also depend on the number format and the device (`Precision.digest`), unless they are
float32 on a CPU. The losses of two models on the same tokens can be compared token by token with
the second file.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlready.evaluators.checked_files import (
    DamagedError,
    read_back,
    with_digest,
    without_digest,
)
from rlready.evaluators.heldout.loss import EVALUATOR_VERSION, ExampleLoss
from rlready.evaluators.heldout.tokens import TokenizedExample
from rlready.registry.digest import digest
from rlready.registry.errors import SamplesError
from rlready.registry.whole_file import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The losses of one checkpoint on one held-out set.

    Args:
        benchmark_digest: `TokenizedSet.benchmark_digest`.
        examples: one entry per scored example.
        n_truncated: examples that were cut at the model's context.
        n_skipped: examples whose prompt alone fills the context.
        n_turn_bytes: UTF-8 bytes of the turns to score, as in the file.
        n_cut_bytes: the part of these bytes that the chat template cuts or rewrites.
    """

    benchmark_digest: str
    examples: tuple[ExampleLoss, ...]
    n_truncated: int
    n_skipped: int
    n_turn_bytes: int
    n_cut_bytes: int

    def warnings(self, name: str) -> list[str]:
        """Return sentences about parts that were not scored; they begin with the set's name."""
        warnings = []
        if self.n_truncated or self.n_skipped:
            warnings.append(
                f"{name}: {self.n_truncated} examples were cut at the model's context and "
                f"{self.n_skipped} left out, because their prompt alone fills it"
            )
        if self.n_cut_bytes:
            warnings.append(
                f"{name}: {self.n_cut_bytes:,} of {self.n_turn_bytes:,} response bytes are not "
                "scored, because the chat template cuts or rewrites them, as templates of "
                "reasoning models do with thoughts. Responses of `prompt` + `response` rows are "
                "scored as they stand"
            )
        return warnings


def write_losses(path: Path, losses: Losses) -> None:
    """Write losses by an atomic rename; raise SamplesError if that fails."""
    replace_text(path, with_digest(dataclasses.asdict(losses)))


def read_losses(path: Path, warn: Callable[[str], None]) -> Losses | None:
    """Return the losses in a file; None if they must be computed again.

    That is if the file is missing or damaged, or another version wrote it. `warn` is called about
    a damaged file, which is renamed.
    """
    return read_back(path, parse_losses, warn)


def parse_losses(path: Path) -> Losses | None:
    """Return the losses in a file; None if another version wrote it, with other fields.

    Raises:
        DamagedError: if the content does not match its digest. Other damage raises whatever the
            readers of JSON and of the records raise.
    """
    values = without_digest(path.read_text(encoding="utf-8"))
    if values.keys() != {field.name for field in dataclasses.fields(Losses)}:
        return None
    examples = tuple(ExampleLoss(**example) for example in values.pop("examples"))
    return Losses(examples=examples, **values)


def losses_path(
    folder: Path, set_digest: str, prompt_template: str, precision_digest: str | None
) -> Path:
    """Return the file for the losses of a held-out set, in the folder of a checkpoint."""
    key = [set_digest, prompt_template, EVALUATOR_VERSION]
    return folder / f"heldout-{digest(_with_precision(key, precision_digest))}.json"


def token_nll_path(
    folder: Path, examples: Sequence[TokenizedExample], precision_digest: str | None
) -> Path:
    """Return the file for the losses of exactly these tokens, in the folder of a checkpoint."""
    tokens = [[e.token_ids.tolist(), e.is_response.tolist()] for e in examples]
    key = [tokens, EVALUATOR_VERSION]
    return folder / f"token-nll-{digest(_with_precision(key, precision_digest))}.npz"


def _with_precision(key: list[Any], precision_digest: str | None) -> list[Any]:
    # Files from before precisions were distinguished hold losses of float32 on a CPU.
    return key if precision_digest is None else [*key, precision_digest]


def write_token_nlls(path: Path, nlls: Sequence[NDArray[np.float32]]) -> None:
    """Write the losses of each example's scored tokens; raise SamplesError if that fails."""
    lengths = np.array([len(nlls_of_example) for nlls_of_example in nlls])
    values = np.concatenate(nlls) if len(nlls) else np.empty(0, np.float32)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            content = np.array(_digest(values, lengths))
            np.savez(file, values=values, lengths=lengths, digest=content)

    _replace(path, write)


def read_token_nlls(
    path: Path, n_tokens: Sequence[int], warn: Callable[[str], None]
) -> list[NDArray[np.float32]] | None:
    """Return the losses in a file, of `n_tokens` in each example; None as `read_losses`."""

    def read(path: Path) -> list[NDArray[np.float32]]:
        # Opened here, since NumPy leaves a damaged file open.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            values, lengths = file["values"], file["lengths"]
            written = str(file["digest"]) if "digest" in file else None
        if written not in (None, _digest(values, lengths)):
            raise DamagedError("its content does not match its digest")
        if values.ndim != 1 or lengths.tolist() != list(n_tokens) or sum(n_tokens) != len(values):
            raise DamagedError("it holds the losses of other tokens")
        return np.split(values, np.cumsum(lengths)[:-1])

    return read_back(path, read, warn)


def _digest(values: NDArray[np.float32], lengths: NDArray[np.int64]) -> str:
    return hashlib.sha256(values.tobytes() + lengths.tobytes()).hexdigest()


def replace_text(path: Path, text: str) -> None:
    """Write a small file by an atomic rename; raise SamplesError if that fails."""
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write(temporary)
    except OSError as error:
        raise SamplesError(
            f"cannot write {path}",
            why=error.strerror or str(error),
            fix="Free some space or name another --samples-dir, and run the same command again",
        ) from error
