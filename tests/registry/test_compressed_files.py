"""Compressed files that would fill the memory are refused before they do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlready.evaluators.benchmarks.problems import load_benchmark, parse_benchmark_option
from rlready.evaluators.heldout.examples import load_heldout
from rlready.registry import compressed_files
from rlready.registry.compressed_files import check_expansion
from rlready.registry.errors import BenchmarkError, ConfigError
from rlready.workflow.predict.validate import read_table

ROW = json.dumps({"problem": "1 + 1?", "answer": "2", "prompt": "1 + 1?", "response": "2"}) + "\n"


def gzip_bomb(path: Path) -> Path:
    """A file of 1 MB that expands to 1 GB; gzip files that follow each other are one file."""
    megabytes_16 = gzip.compress(b" " * ((16 << 20) - 1) + b"\n", 9)
    path.write_bytes(gzip.compress(ROW.encode()) + megabytes_16 * 64)
    assert path.stat().st_size < 1.1e6
    return path


@pytest.mark.parametrize(
    "call",
    [
        "from rlready.evaluators.heldout.examples import load_heldout; load_heldout(path)",
        "from rlready.evaluators.benchmarks.rows import file_rows; list(file_rows(path, list))",
        "from rlready.workflow.predict.validate import read_table; read_table(path)",
    ],
)
def test_a_gigabyte_in_a_megabyte_is_refused_within_300_mb_and_5_s(
    tmp_path: Path, call: str
) -> None:
    """It took 3.3 GB."""
    code = f"""
import sys, time
from pathlib import Path
from rlready.registry.errors import RlreadyError
path = Path(sys.argv[1])
begin = time.process_time()
try:
    {call}
except RlreadyError as error:
    # Not ru_maxrss, which begins with the peak of the process that was forked.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    print(peak, time.process_time() - begin, error, sep="|")
"""
    path = gzip_bomb(tmp_path / "x.jsonl.gz")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True)
    peak_mb, seconds, message = done.stdout.decode().strip().split("|")
    assert int(peak_mb) < 300
    assert float(seconds) < 5.0
    assert "expands to more than" in message
    assert "unpack it first and name the unpacked file" in message


def test_the_unpacked_file_is_read(tmp_path: Path) -> None:
    """The way round the limit that the message names."""
    rows = ROW * 400_000
    path = tmp_path / "held.jsonl.gz"
    path.write_bytes(gzip.compress(rows.encode()))
    with pytest.raises(BenchmarkError, match="expands to more than"):
        load_heldout(path)
    unpacked = path.with_suffix("")
    unpacked.write_bytes(gzip.decompress(path.read_bytes())[: len(ROW) * 2000])
    assert len(load_heldout(unpacked).examples) == 2000


def packed_zip(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.csv", content)


PACKERS: dict[str, Callable[[bytes, Path], object]] = {
    "x.csv.gz": lambda content, path: path.write_bytes(gzip.compress(content)),
    "x.csv.bz2": lambda content, path: path.write_bytes(bz2.compress(content)),
    "x.csv.xz": lambda content, path: path.write_bytes(lzma.compress(content)),
    "x.csv.zip": packed_zip,
}


@pytest.mark.parametrize("name", PACKERS)
def test_tables_are_bounded_however_they_are_packed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed_files, "FREE_BYTES", 500_000)
    path = tmp_path / name
    PACKERS[name](b"a,b\n" + b"1,2\n" * 400_000, path)
    with pytest.raises(ConfigError, match="expands to more than"):
        read_table(path)
    PACKERS[name](b"a,b\n" + b"1,2\n" * 50_000, path)
    assert len(read_table(path)) == 50_000
    path.write_bytes(b"no archive at all")
    with pytest.raises(ConfigError, match="cannot read"):
        read_table(path)


def parquet(path: Path, columns: dict[str, list[object]], use_dictionary: bool = True) -> Path:
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=use_dictionary)
    return path


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    ("columns", "use_dictionary"),
    [
        ({"problem": [LONG] * 50, "answer": ["1"] * 50}, True),
        ({"problem": [f"{i}{LONG}" for i in range(50)], "answer": ["1"] * 50}, False),
        ({"problem": ["p"] * 50, "answer": [["1" * 1000] * 1000] * 50}, True),
        ({"problem": ["p"] * 50, "answer": [{"a": [LONG]}] * 50}, True),
        ({"problem": ["p"] * 5_000_000, "answer": ["1"] * 5_000_000}, True),
    ],
    ids=["repeated text", "huge pages", "repeated list", "nested", "repeated rows"],
)
def test_parquet_files_are_bounded_by_what_they_expand_to(
    tmp_path: Path, columns: dict[str, list[object]], use_dictionary: bool
) -> None:
    """A text that all rows share is written once and read as often as there are rows."""
    path = parquet(tmp_path / "x.parquet", columns, use_dictionary)
    with pytest.raises(BenchmarkError, match=r"expands to more than.*convert it to \.jsonl"):
        load_benchmark(parse_benchmark_option(str(path)))
    with pytest.raises(ConfigError, match="expands to more than"):
        read_table(path)


def test_an_ordinary_parquet_file_is_not_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    problems: list[object] = [str(rng.random()) * 50 for _ in range(2000)]
    path = parquet(tmp_path / "x.parquet", {"problem": problems, "answer": ["1"] * 2000})
    assert len(load_benchmark(parse_benchmark_option(str(path))).problems) == 2000


def test_both_limits_and_what_they_do_not_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl.gz"
    content = random.Random(0).randbytes(100_000)
    path.write_bytes(gzip.compress(content))
    check_expansion(path, ConfigError)
    monkeypatch.setattr(compressed_files, "MAX_EXPANDED_BYTES", 99_999)
    with pytest.raises(ConfigError, match="at most"):
        check_expansion(path, ConfigError)
    plain = tmp_path / "x.jsonl"
    plain.write_bytes(content)
    check_expansion(plain, ConfigError)
