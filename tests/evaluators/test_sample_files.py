"""Samples on disk: what was written comes back, and damage or a kill costs one part."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import resource
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlready.evaluators.sampling.sample_files import SampleFolder
from rlready.evaluators.verification.verifier import CheckedAnswer
from rlready.registry.errors import SamplesError
from rlready.registry.records import Sample, Verdict


def sample(problem: str, index: int, text: str = "x") -> Sample:
    return Sample(
        problem_id=problem,
        sample_index=index,
        seed=index,
        text=text,
        n_tokens=3,
        finish_reason="stop",
        logprob_sum=-1.5,
        entropy_sum=2.0,
    )


def filled(tmp_path: Path) -> SampleFolder:
    folder = SampleFolder(tmp_path / "samples", ["a", "b"])
    with folder.lock():
        folder.add([sample("a", 0), sample("a", 1), sample("b", 0)])
        folder.add([sample("b", 1)])
    return folder


def judge_all(folder: SampleFolder, verdict: Verdict = Verdict.CORRECT) -> None:
    for part, rows in list(folder.unjudged("v1")):
        folder.judge(part, {"boxed": [CheckedAnswer(verdict, "7")] * len(rows)}, "v1")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back_unchanged(tmp_path: Path, text: str) -> None:
    folder = SampleFolder(tmp_path / "one", ["a"])
    for part in folder.path.glob("part-*"):
        part.unlink()
    with folder.lock():
        folder.add([sample("a", 0, text)])
    assert [rows for _, rows in folder.unjudged("v1")] == [[("a", text)]]


def test_only_missing_samples_are_asked_for(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    assert folder.missing(2) == {}
    assert folder.missing(4) == {"a": (2, 3), "b": (2, 3)}
    assert SampleFolder(folder.path, ["a", "b", "c"]).missing(1) == {"c": (0,)}


def test_verdicts_are_read_back_for_every_sample(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    judge_all(folder)
    first = folder.judged(2)[0]
    assert first.problem_id == "a"
    assert list(first.verdicts) == [Verdict.CORRECT] * 2
    assert list(first.answers) == ["7", "7"]


def test_another_checker_version_judges_again(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    judge_all(folder)
    assert list(folder.unjudged("v1")) == []
    assert len(list(folder.unjudged("v2"))) == 2


def test_unjudged_samples_are_no_result(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match="2 of 2 samples of problem a are missing"):
        filled(tmp_path).judged(2)


def test_fewer_samples_than_there_are_may_be_asked_for(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    judge_all(folder)
    assert [len(p.verdicts) for p in folder.judged(1)] == [1, 1]


def test_a_sample_in_two_parts_counts_once(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    with folder.lock():
        folder.add([sample("b", 1)])
    judge_all(folder)
    assert [len(p.verdicts) for p in folder.judged(2)] == [2, 2]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_part_is_set_aside_and_its_samples_are_missing(
    tmp_path: Path, damage: str
) -> None:
    folder = filled(tmp_path)
    part = next(p for p in folder.path.glob("part-*") if pq.read_table(p).num_rows == 3)
    content = bytearray(part.read_bytes())
    if damage == "truncated":
        content = content[:100]
    elif damage == "flipped":
        content[40] ^= 0xFF
    elif damage == "foreign":
        with folder.lock():
            SampleFolder(folder.path, ["z"]).add([sample("z", 0)])
    else:
        content = bytearray()
    part.write_bytes(content)
    found = folder.missing(2)
    list(folder.unjudged("v1"))
    assert len(folder.set_aside) == 1
    assert folder.set_aside[0].suffix == ".damaged"
    expected = {} if damage == "foreign" else {"a": (0, 1), "b": (0,)}
    assert folder.missing(2) == expected
    assert found in (expected, {})


def test_a_part_damaged_in_a_column_that_only_judging_reads_is_set_aside(tmp_path: Path) -> None:
    """It escaped as a traceback: `unjudged` reads the texts, `judge` every column."""
    folder = filled(tmp_path)
    part = next(p for p in folder.path.glob("part-*") if pq.read_table(p).num_rows == 3)
    column = pq.ParquetFile(part).metadata.row_group(0).column(6)
    assert column.path_in_schema == "logprob_sum"
    content = bytearray(part.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    content[begin + column.total_compressed_size - 1] ^= 0xFF
    part.write_bytes(content)
    judge_all(folder)
    assert len(folder.set_aside) == 1
    assert folder.missing(2) == {"a": (0, 1), "b": (0,)}


def test_what_a_kill_left_half_written_is_cleared(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    leftover = folder.path / ".tmp-1-part-x.parquet"
    leftover.write_bytes(b"half")
    with folder.lock():
        assert not leftover.exists()


def test_a_second_writer_waits_and_says_so(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    other = (folder.path / ".lock").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)
    waits: list[str] = []

    def release() -> None:
        waits.append("waited")
        other.close()

    with folder.lock(release):
        assert waits == ["waited"]


def test_about_says_what_the_samples_are(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    folder.describe({"benchmark": {"name": "gsm8k"}})
    about = json.loads((folder.path / "about.json").read_text())
    assert about["benchmark"]["name"] == "gsm8k"


def _fill_the_disk(path: Path, messages: multiprocessing.Queue[str]) -> None:
    # A limit on the size of files stands in for a full disk: the same call fails, for real.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    folder = SampleFolder(path, ["a"])
    with folder.lock():
        folder.add([sample("a", 0)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            folder.add([sample("a", 1, "".join(map(chr, range(200, 20_000))))])
        except SamplesError as error:
            messages.put(str(error))
        else:
            messages.put("no error")


def test_a_full_disk_is_told_and_loses_no_written_part(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_fill_the_disk, args=(tmp_path / "s", messages))
    child.start()
    message = messages.get(timeout=60)
    child.join()
    assert "cannot write" in message
    assert "what was written before is kept" in message
    folder = SampleFolder(tmp_path / "s", ["a"])
    assert folder.missing(2) == {"a": (1,)}
    assert not list(folder.path.glob(".tmp-*"))
