"""The interface of an engine that draws samples, and the random numbers of each sample.

Seed rule `blake2b-philox-1`: sample i of a problem has the 64-bit seed
`blake2b(base seed, problem id, i)`, and its t-th token is chosen by the t-th uniform number of
`numpy.random.Philox(seed)` through the inverse of the cumulative distribution. So a sample depends
only on its own seed and the model: any subset can be drawn again, in any batch, at any time, and
two processes never repeat each other's samples.

On one device the same batch gives the same samples bit for bit. Another batch size changes the
last bits of the logits, so a token changes if its uniform number falls into that gap: with float32
about once in 10^6 tokens (never in the tests), with bfloat16 often. The distribution is the same
in every batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rlready.registry import records
from rlready.registry.records import Problem, Sample

_BLOCK = 256
"""Uniform numbers that are drawn at once for each row."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The samples of one problem to draw, by their indices.

    Example:
        >>> draws = [Draw(problem=problem, sample_indices=tuple(range(64))) for problem in problems]
    """

    problem: Problem
    sample_indices: tuple[int, ...]


OnProgress = Callable[[int, int], None]
"""Called with (samples finished, tokens drawn) since the last call."""


class Sampler(Protocol):
    """An engine that draws samples from one checkpoint.

    Every implementation draws from the same distribution for the same protocol, follows the seed
    rule where its engine can, and yields parts of a size that is worth storing.

    Example:
        >>> for part in sampler.draw(draws, protocol):
        ...     folder.add(part)
    """

    name: str

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """Yield the samples in parts, in any order.

        Raises:
            EvaluationError: if a prompt is longer than the model's context.
        """

    def describe(self) -> dict[str, Any]:
        """Return engine, versions, device and number format, for the record."""

    def close(self) -> None:
        """Free the device, processes and connections of the engine, which cannot draw any more."""


def sample_seed(base_seed: int, problem_id: str, sample_index: int) -> int:
    """Return the seed of one sample, 0 <= seed < 2^63."""
    text = f"{base_seed}\x1f{problem_id}\x1f{sample_index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


class UniformStreams:
    """The uniform numbers of a batch of samples, step by step, from one seed per row."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]
        self._block_BT: npt.NDArray[np.float64] = np.empty((len(seeds), 0))
        self._next = 0

    def next(self) -> npt.NDArray[np.float64]:
        """Return the next number in [0, 1) of every row, shape (rows,)."""
        if self._next == self._block_BT.shape[1]:
            self._block_BT = np.stack([stream.random(_BLOCK) for stream in self._streams])
            self._next = 0
        self._next += 1
        return self._block_BT[:, self._next - 1]

    def keep(self, rows: npt.NDArray[np.int64]) -> None:
        """Continue with these rows only."""
        self._streams = [self._streams[row] for row in rows]
        self._block_BT = self._block_BT[rows]
