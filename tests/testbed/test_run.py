"""The testbed end to end on its smallest profile: real SFT, real GRPO, several processes, kills."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from rlready.registry.errors import ConfigError
from rlready.registry.store import MemoryStore
from rlready.testbed.study.design import PROFILES, make_design, read_design, write_design
from rlready.testbed.study.run import collect, make, missing, register
from rlready.testbed.study.summary import rank_proxies, spearman, summarize
from rlready.workflow.cli.main import main
from rlready.workflow.progress import Clock


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke run that nothing disturbed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    make(out, make_design("smoke", 0, 2), Clock())
    return out


def values(out: Path) -> dict[str, Any]:
    """Every number of a run that its results decide: proxies and curves."""
    made = collect(out, read_design(out))
    return {
        m.recipe.id: (
            m.checkpoint.id,
            m.proxies,
            {seed: run.curve for seed, run in m.runs.items()},
        )
        for m in made
    }


@pytest.mark.slow
def test_a_run_ends_with_lineage_and_outcomes_in_the_registry(finished: Path) -> None:
    design = read_design(finished)
    store = MemoryStore()
    for _ in range(2):  # the second time adds nothing
        register(finished, design, collect(finished, design), store, Clock())
    by_kind: dict[str, list[Any]] = {"base": [], "sft": [], "rl": []}
    for stored in store.checkpoints():
        by_kind[stored.checkpoint.kind].append(stored)
    assert {kind: len(found) for kind, found in by_kind.items()} == {"base": 1, "sft": 3, "rl": 3}
    base = by_kind["base"][0].checkpoint.id
    assert all(s.checkpoint.parents == (base,) for s in by_kind["sft"])
    sft_ids = {s.checkpoint.id for s in by_kind["sft"]}
    assert all(set(s.checkpoint.parents) <= sft_ids for s in by_kind["rl"])
    for stored in by_kind["sft"]:
        keys = [outcome.key for outcome in stored.outcomes]
        assert "value_at_budget/8steps@world_after" in keys
        assert len(keys) == len(set(keys)) == 2 * 7
        assert {p.name for p in stored.proxies} >= {"pass_at_16", "heldout_nll", "token_entropy"}


@pytest.mark.slow
def test_a_killed_worker_changes_nothing_in_the_end(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    write_design(out, make_design("smoke", 0, 1))
    worker = subprocess.Popen(
        [sys.executable, "-m", "rlready.testbed.study.worker", str(out), "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert worker.stdout is not None
    for _ in range(3):  # in the midst of the second recipe
        worker.stdout.readline()
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    design = make_design("smoke", 0, 2)
    assert missing(out, design)
    make(out, design, Clock())
    assert missing(out, design) == []
    assert values(out) == values(finished)


@pytest.mark.slow
def test_the_command_prints_a_summary_and_writes_table_and_pictures(
    finished: Path, sqlite_uri: str
) -> None:
    flags = ["testbed", "--profile", "smoke", "--out", str(finished), "--tracking-uri", sqlite_uri]
    result = CliRunner().invoke(main, [*flags, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.strip().splitlines()[-1])
    assert report["n_checkpoints"] == 3
    assert all(Path(path).is_file() for path in report["files"])
    frame = pd.read_csv(finished / "table.csv")
    assert len(frame) == 3
    assert {"pass_at_1@world", "heldout_nll@heldout_terse", "recipe.style"} <= set(frame.columns)
    assert "value_at_budget/8steps@world_after" in frame.columns
    text = CliRunner().invoke(main, flags)
    assert text.exit_code == 0, text.output
    assert "Spearman with pass@1 after RL" in text.output


def test_an_unknown_profile_is_told(sqlite_uri: str) -> None:
    result = CliRunner().invoke(main, ["testbed", "--profile", "huge"])
    assert result.exit_code == 2
    assert "Known profiles: smoke, small, full, long" in result.output


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path) -> None:
    write_design(tmp_path, make_design("smoke", 0, 2))
    write_design(tmp_path, make_design("smoke", 0, 1))  # the number of workers decides nothing
    before = (tmp_path / "design.json").read_bytes()
    with pytest.raises(ConfigError, match="holds another run"):
        write_design(tmp_path, make_design("smoke", 1, 2))
    assert (tmp_path / "design.json").read_bytes() == before


def test_the_loop_shows_a_checkpoint_of_its_run_that_is_neither_lost_nor_perfect() -> None:
    """`make loop` evaluates one of the small profile's checkpoints by name."""
    root = ROOT
    (shown,) = re.findall(r"^SFT := (\S+)$", (root / "Makefile").read_text(), re.MULTILINE)
    assert shown in {recipe.id for recipe in make_design("small", 0, 2).recipes}
    frame = pd.read_csv(root / "testbed" / "results" / "full.csv").set_index("name")
    for benchmark in ("chain_hard", "add3"):
        assert 0.1 < frame.loc[shown, f"pass_at_1@{benchmark}"] < 0.9


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_design_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    design = make_design(name, seed=0, n_workers=2)
    write_design(tmp_path, design)
    assert read_design(tmp_path) == design


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=12).filter(lambda x: len(set(x)) > 1))
def test_spearman_survives_any_increasing_transform(numbers: list[int]) -> None:
    a = np.array(numbers, dtype=float)
    b = a + np.sin(np.arange(len(a)) * 3.0) * 4
    found = spearman(a, b)
    assert spearman(a**3, b) == pytest.approx(found)
    assert spearman(-a, b) == pytest.approx(-found)
    assert spearman(b, b) == pytest.approx(1.0)


def test_a_better_proxy_than_pass_at_1_is_ranked_above_it() -> None:
    rng = np.random.default_rng(3)
    outcome = rng.normal(size=40)
    proxies = {
        "pass_at_1@world": outcome + rng.normal(size=40) * 3,
        "heldout_nll@heldout_terse": -outcome + rng.normal(size=40) * 0.1,
        "constant@world": np.ones(40),
    }
    first, second = rank_proxies(proxies, outcome)
    assert first.proxy == "-heldout_nll@heldout_terse"
    assert second.proxy == "pass_at_1@world"
    assert first.difference_interval is not None
    assert first.difference_interval[0] > 0
    assert math.isclose(second.difference, 0.0)


def test_few_checkpoints_get_no_interval() -> None:
    outcome = np.array([0.1, 0.2, 0.3])
    (row,) = rank_proxies({"pass_at_1@world": outcome}, outcome)
    assert row.interval is None


@pytest.mark.slow
def test_the_summary_counts_what_grpo_did(finished: Path) -> None:
    design = read_design(finished)
    summary = summarize(finished, design, collect(finished, design))
    assert summary.facts["n_checkpoints"] == 3
    low, high = summary.facts["post_rl_range"]
    assert 0.0 <= low <= high <= 1.0
    assert summary.facts["rl_seed_sd"] is None


@pytest.mark.slow
def test_evaluate_finds_the_testbeds_own_numbers(finished: Path, sqlite_uri: str) -> None:
    """Same weights, problems, protocol and seeds: the general verifier gives the same counts."""
    design = read_design(finished)
    recipe = design.recipes[0]
    inputs = finished / "inputs"
    flags = [
        *("evaluate", str(finished / "sft" / recipe.id), "--max-tokens", "48"),
        *("--benchmark", f"add2={inputs / 'before' / 'add2.jsonl'}"),
        *("--held-out", str(inputs / "heldout_terse.jsonl")),
        *("--prompt-template", str(inputs / "prompt.txt")),
        *("--samples", str(design.profile.n_samples), "--samples-dir", str(finished / "samples")),
        *("--tracking-uri", sqlite_uri, "--device", "cpu", "--json"),
    ]
    result = CliRunner().invoke(main, flags)
    assert result.exit_code == 0, result.output
    metrics = json.loads(result.stdout)["metrics"]
    (made, *_) = collect(finished, design)
    own = {(p.benchmark, p.name): p for p in made.proxies}
    for benchmark in ("add2", "heldout_terse"):
        for name, entry in metrics[benchmark].items():
            if name in ("lenient_pass_at_1", "format_gap"):
                continue  # the testbed's own verifier knows one answer format
            assert entry["value"] == pytest.approx(own[benchmark, name].value, rel=1e-6), name
