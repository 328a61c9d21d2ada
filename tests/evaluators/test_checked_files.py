"""Files that are read back: a flipped bit is noticed or harmless, and old files are still read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlready.evaluators.checked_files import (
    DamagedError,
    read_back,
    with_digest,
    without_digest,
)
from rlready.evaluators.heldout.loss import ExampleLoss
from rlready.evaluators.heldout.loss_files import (
    Losses,
    read_losses,
    read_token_nlls,
    write_losses,
    write_token_nlls,
)
from rlready.evaluators.sampling.sample_files import SampleFolder, earlier_counts
from rlready.evaluators.verification.verifier import CheckedAnswer
from rlready.registry.digest import file_sha256
from rlready.registry.records import Sample, Verdict

N_FLIPS = 1500
N_TOKENS = [3, 1, 7]


class Evaluated:
    """The files that an evaluation leaves and a later one reads back."""

    def __init__(self, root: Path) -> None:
        self.samples = root / "samples" / "sft" / "benchmark-protocol"
        self.weights, self.cache = root / "model.safetensors", root / "cache"
        self.losses = root / "heldout-0.json"
        self.nlls = root / "token-nll-0.npz"
        self.warnings: list[str] = []
        self.weights.write_bytes(b"weights")
        folder = self.folder()
        with folder.lock():
            rng = random.Random(0)
            folder.add([_sample(problem, i, rng) for problem in ("a", "b") for i in range(4)])
            for part, rows in list(folder.unjudged("v1")):
                folder.judge(
                    part, {"boxed": [CheckedAnswer(Verdict.CORRECT, "7")] * len(rows)}, "v1"
                )
            folder.write_counts([problem.counts for problem in folder.judged(4)])
        write_losses(self.losses, _losses())
        write_token_nlls(self.nlls, [np.linspace(0, 1, n, dtype=np.float32) for n in N_TOKENS])
        file_sha256(self.weights, self.cache)
        (self.entry,) = self.cache.iterdir()

    def folder(self) -> SampleFolder:
        """The samples, opened by a new run."""
        return SampleFolder(self.samples, ["a", "b"])

    def files(self) -> list[Path]:
        """All that is read back."""
        return [*sorted(self.samples.glob("*.parquet")), self.losses, self.nlls, self.entry]

    def content(self, path: Path) -> Any:
        """What a run reads from one of the files; None if it makes the file again."""
        if path.name.startswith("part-"):
            folder = self.folder()
            texts = [rows for _, rows in folder.unjudged("v2")]
            return None if folder.set_aside else (texts, folder.judged(4))
        if path == self.losses:
            return read_losses(path, self.warnings.append)
        if path == self.nlls:
            nlls = read_token_nlls(path, N_TOKENS, self.warnings.append)
            return None if nlls is None else [own.tolist() for own in nlls]
        if path == self.entry:
            return file_sha256(self.weights, self.cache)
        return (
            earlier_counts(
                self.samples.parents[1] / "other" / path.parent.name, self.warnings.append
            )
            or None
        )


def _sample(problem: str, index: int, rng: random.Random) -> Sample:
    return Sample(
        problem_id=problem,
        sample_index=index,
        seed=index,
        text=" ".join(str(rng.random()) for _ in range(20)),
        n_tokens=rng.randrange(100),
        finish_reason="stop",
        logprob_sum=-rng.random(),
        entropy_sum=rng.random(),
    )


def _losses() -> Losses:
    examples = tuple(
        ExampleLoss(id=f"line-{i}", nll_sum=i + 0.25, n_tokens=i + 1, n_bytes=9) for i in range(20)
    )
    return Losses(
        benchmark_digest="0" * 32,
        examples=examples,
        n_truncated=1,
        n_skipped=0,
        n_turn_bytes=9,
        n_cut_bytes=0,
    )


def test_every_flipped_bit_is_harmless_or_noticed(tmp_path: Path) -> None:
    """Ten of 1,500 passed without a word, others ended every later run with a ValueError."""
    evaluated = Evaluated(tmp_path)
    originals = {path: path.read_bytes() for path in evaluated.files()}
    contents = {path: evaluated.content(path) for path in originals}
    rng = random.Random(1)
    n_noticed = 0
    for path in rng.choices(list(originals), list(map(len, originals.values())), k=N_FLIPS):
        damaged = bytearray(originals[path])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        content = evaluated.content(path)
        n_noticed += content is None
        assert content is None or content == contents[path], (path.name, damaged)
        path.write_bytes(originals[path])
    assert n_noticed > N_FLIPS // 2


def test_an_edited_digit_is_not_a_new_result(tmp_path: Path) -> None:
    """It was logged as one: the file was JSON of the right form, and that was all that counted."""
    evaluated = Evaluated(tmp_path)
    text = evaluated.losses.read_text()
    evaluated.losses.write_text(text.replace("3.25", "2.25"))
    assert evaluated.content(evaluated.losses) is None
    assert evaluated.warnings == [
        "heldout-0.json is damaged (its content does not match its digest); it was renamed to "
        "heldout-0.damaged and is made again"
    ]
    assert (tmp_path / "heldout-0.damaged").read_text() == text.replace("3.25", "2.25")
    assert not evaluated.losses.exists()


def test_files_of_earlier_versions_have_no_digest_and_are_read(tmp_path: Path) -> None:
    evaluated = Evaluated(tmp_path)
    contents = {path: evaluated.content(path) for path in evaluated.files()}
    values = json.loads(evaluated.losses.read_text())
    del values["digest"]
    evaluated.losses.write_text(json.dumps(values))
    with np.load(evaluated.nlls) as file:
        arrays = {name: file[name] for name in ("values", "lengths")}
    np.savez(evaluated.nlls, **arrays)
    for path in evaluated.samples.glob("*.parquet"):
        table = pq.read_table(path).replace_schema_metadata(None)
        pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    assert {path: evaluated.content(path) for path in evaluated.files()} == contents
    assert evaluated.warnings == []


def test_losses_with_other_fields_are_made_again_and_not_called_damaged(tmp_path: Path) -> None:
    evaluated = Evaluated(tmp_path)
    values = without_digest(evaluated.losses.read_text())
    del values["n_cut_bytes"]
    for text in (json.dumps(values), with_digest(values)):
        evaluated.losses.write_text(text)
        assert evaluated.content(evaluated.losses) is None
        assert evaluated.losses.exists()
    assert evaluated.warnings == []


@pytest.mark.parametrize(
    ("column", "value"),
    [("verdict", "XORRECT"), ("finish_reason", "stoq"), ("n_tokens", -1), ("problem_id", "c")],
)
def test_an_old_part_with_an_impossible_value_is_set_aside(
    tmp_path: Path, column: str, value: object
) -> None:
    """`XORRECT` ended every later run with a ValueError."""
    evaluated = Evaluated(tmp_path)
    (part,) = evaluated.samples.glob("part-*")
    table = pq.read_table(part).replace_schema_metadata(None)
    rows = table.to_pylist()
    rows[2][column] = value
    pq.write_table(table.from_pylist(rows, schema=table.schema), part)
    folder = evaluated.folder()
    assert folder.missing(4) == {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3)}
    assert [path.name for path in folder.set_aside] == [f"{part.stem}.damaged"]


def test_counts_of_another_checkpoint_that_are_damaged_are_named(tmp_path: Path) -> None:
    evaluated = Evaluated(tmp_path)
    counts = evaluated.samples / "counts.parquet"
    counts.write_bytes(counts.read_bytes()[:-9])
    assert evaluated.content(counts) is None
    (warning,) = evaluated.warnings
    assert f"{counts} is damaged" in warning
    assert counts.exists()


def test_a_cached_digest_of_weights_without_its_check_counts_for_nothing(tmp_path: Path) -> None:
    evaluated = Evaluated(tmp_path)
    true = file_sha256(evaluated.weights)
    for text in ("0" * 64, evaluated.entry.read_text().replace(true[:8], "00000000"), "", "x y z"):
        evaluated.entry.write_text(text)
        assert file_sha256(evaluated.weights, evaluated.cache) == true


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "nothing", '{"a": 1e999}', '{"a": 1, "a": 2}']
)
def test_a_hostile_cache_is_put_aside(tmp_path: Path, text: str) -> None:
    path, warnings = tmp_path / "heldout-0.json", list[str]()
    path.write_text(text)
    assert read_losses(path, warnings.append) is None
    assert len(warnings) == 1


def test_what_was_written_is_read_back_and_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    assert without_digest(with_digest({"b": 1.5, "a": [None, "x"]})) == {"b": 1.5, "a": [None, "x"]}
    with pytest.raises(DamagedError, match="digest"):
        without_digest(with_digest({"a": 1}).replace(": 1", ": 2"))
    nothing: Callable[[Path], str] = Path.read_text
    assert read_back(tmp_path / "none", nothing, lambda _: pytest.fail("it warns")) is None
