"""Engines for tests of what stands around engines; importable by processes elsewhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer, pick_dtype
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw, OnProgress, Sampler, sample_seed
from rlready.registry import records
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Sample


def open_hf(folder: Path, checkpoint: Path, batch_size: int) -> Sampler:
    """The hf engine; its process says so in `folder`, as `worker.<pid>`."""
    (folder / f"worker.{os.getpid()}").touch()
    return HfSampler(
        load_model(checkpoint, "cpu", pick_dtype("cpu")), load_tokenizer(checkpoint), batch_size
    )


@dataclass(frozen=True)
class ScriptedSampler:
    """Writes the seed of a sample as its text, `part` samples at a time.

    Args:
        folder: a process that begins a problem says so here, in `<problem id>.<pid>`.
        deadly: id of a problem that ends its process by SIGKILL.
        n_deaths: how many processes it ends.
        too_long: id of a problem that the engine refuses.
        breaks: id of a problem that the engine of one process breaks at.
        part: samples of a part.
    """

    folder: Path
    deadly: str = ""
    n_deaths: int = 1_000
    too_long: str = ""
    breaks: str = ""
    part: int = 4
    name: str = "scripted"

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return {"engine": self.name, "pid": os.getpid()}

    def close(self) -> None:
        """See `Sampler.close`."""
        (self.folder / f"closed.{os.getpid()}").touch()

    def draw(
        self,
        draws: Sequence[Draw],
        protocol: records.Protocol,
        on_progress: OnProgress | None = None,
    ) -> Iterator[list[Sample]]:
        """See `Sampler.draw`."""
        rows = [(draw.problem.id, index) for draw in draws for index in draw.sample_indices]
        for start in range(0, len(rows), self.part):
            yield [self._sample(*row, protocol) for row in rows[start : start + self.part]]

    def _sample(self, problem_id: str, index: int, protocol: records.Protocol) -> Sample:
        (self.folder / f"{problem_id}.{os.getpid()}").touch()
        if problem_id == self.deadly and len(began(self.folder, problem_id)) <= self.n_deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if problem_id == self.too_long:
            raise EvaluationError(f"the prompt of problem {problem_id} is too long", fix="Cut it")
        if problem_id == self.breaks and len(began(self.folder, problem_id)) == 1:
            raise EvaluationError("the engine failed") from RuntimeError("CUDA error")
        seed = sample_seed(protocol.seed, problem_id, index)
        return Sample(
            problem_id=problem_id,
            sample_index=index,
            seed=seed,
            text=str(seed),
            n_tokens=1,
            finish_reason="stop",
            logprob_sum=0.0,
            entropy_sum=0.0,
        )


def began(folder: Path, name: str) -> list[int]:
    """Processes that said so in the folder."""
    return [int(path.suffix[1:]) for path in folder.glob(f"{name}.*")]
