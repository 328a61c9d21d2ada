"""The ray engine on a real cluster of two workers, which this file starts once and ends."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from places import SUPPORT
from scripted_sampler import ScriptedSampler, began, open_hf

from rlready.evaluators.sampling.ray import RaySampler, split
from rlready.evaluators.sampling.ray_cluster import Cluster, RayOptions
from rlready.evaluators.sampling.sample_files import SampleFolder
from rlready.evaluators.sampling.sampler import Draw, sample_seed
from rlready.registry import records
from rlready.registry.errors import CheckpointError, ConfigError, EvaluationError
from rlready.registry.records import Problem, Sample
from rlready.testbed.training.model import untrained_checkpoint
from rlready.workflow.cli.main import main

PROTOCOL = records.Protocol(prompt_template="{problem}")
OPTIONS = RayOptions(workers=2, task_samples=8, max_retries=1)

OpenSampler = Callable[..., RaySampler]


def problem(index: int, length: int = 1) -> Problem:
    return Problem(id=f"p{index}", text="x" * length, answers=("1",))


def draws(n_problems: int, n_samples: int) -> list[Draw]:
    return [
        Draw(problem=problem(i, 1 + i), sample_indices=tuple(range(n_samples)))
        for i in range(n_problems)
    ]


def keys(parts: Sequence[Sequence[Sample]]) -> list[tuple[str, int]]:
    return sorted((sample.problem_id, sample.sample_index) for part in parts for sample in part)


def wanted(asked: list[Draw]) -> list[tuple[str, int]]:
    return sorted((draw.problem.id, i) for draw in asked for i in draw.sample_indices)


def keep(folder: SampleFolder, parts: Iterable[list[Sample]]) -> None:
    for part in parts:
        folder.add(part)


def ended(pid: int) -> bool:
    """Whether the process ends, which Ray does not wait for."""
    try:
        psutil.Process(pid).wait(timeout=20)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_tasks_hold_every_sample_once_and_the_longest_prompts_first() -> None:
    asked = draws(5, 300)
    tasks = split(asked, n_workers=2, task_samples=256)
    found = [(d.problem.id, i) for task in tasks for d in task.draws for i in d.sample_indices]
    assert sorted(found) == wanted(asked)
    lengths = [len(d.problem.text) for task in tasks for d in task.draws]
    assert lengths == sorted(lengths, reverse=True)


def test_tasks_shrink_towards_the_end() -> None:
    sizes = [task.n_samples for task in split(draws(50, 100), n_workers=4, task_samples=500)]
    assert sizes[0] == 500
    assert sizes == sorted(sizes, reverse=True)
    assert 64 <= sizes[-2] < 100


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster of this process, which every sampler here finds and leaves alone."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlready[ray]'")
    # The servers of other tests are children of this process too.
    before = _descendants()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SUPPORT))  # workers import scripted_sampler
        patch.setenv("RAY_worker_niceness", "0")  # 15 if not set: a busy machine starves them
        patch.setattr("rlready.evaluators.sampling.ray_cluster._OBJECT_STORE_BYTES", 80 << 20)
        patch.delenv("RAY_ADDRESS", raising=False)
        made = Cluster()
    children = _descendants() - before
    yield made
    made.close()
    assert children
    # On a busy machine the last of them needs a moment after `close` to end.
    _, left = psutil.wait_procs(children, timeout=60)
    assert not left, f"processes {left} outlive the cluster"


@pytest.fixture
def open_sampler(cluster: Cluster, tmp_path: Path) -> Iterator[OpenSampler]:
    """Opens samplers that are closed after the test."""
    opened: list[RaySampler] = []

    def open_one(options: RayOptions = OPTIONS, **script: Any) -> RaySampler:
        engine = functools.partial(ScriptedSampler, tmp_path, **script)
        opened.append(RaySampler(tmp_path, engine, options, said.append))
        return opened[-1]

    said.clear()
    yield open_one
    for sampler in opened:
        sampler.close()


said: list[str] = []
"""What the samplers of a test told people."""


@pytest.mark.slow
def test_what_the_workers_drew_comes_once_and_closing_ends_them(
    open_sampler: OpenSampler, tmp_path: Path
) -> None:
    sampler, asked, progress = open_sampler(), draws(6, 20), []
    for _ in range(2):  # as for a second benchmark
        parts = list(sampler.draw(asked, PROTOCOL, lambda *done: progress.append(done)))
        assert keys(parts) == wanted(asked)
    assert {len(part) for part in parts} == {4}
    assert [sum(column) for column in zip(*progress, strict=True)] == [240, 240]
    assert sampler.describe()["workers"] == 2
    assert sampler.describe()["inner"]["engine"] == "scripted"
    pids = {pid for i in range(6) for pid in began(tmp_path, f"p{i}")}
    sampler.close()
    assert pids <= set(began(tmp_path, "closed"))
    assert all(ended(pid) for pid in pids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "told"), [("deadly", "ActorDiedError: "), ("breaks", "the engine failed")]
)
def test_samples_that_end_one_worker_are_drawn_by_another(
    open_sampler: OpenSampler, tmp_path: Path, trouble: str, told: str
) -> None:
    asked = draws(6, 20)
    parts = list(open_sampler(**{trouble: "p3"}, n_deaths=1).draw(asked, PROTOCOL))
    assert keys(parts) == wanted(asked)
    assert {sample.text for part in parts for sample in part} == {
        str(sample_seed(PROTOCOL.seed, *key)) for key in wanted(asked)
    }
    assert len(began(tmp_path, "p3")) > 1
    assert len(said) == 1
    assert told in said[0]
    assert re.search("[48] samples go to the next free one", said[0])


@pytest.mark.slow
def test_samples_that_end_every_worker_are_told_and_the_others_kept(
    open_sampler: OpenSampler, tmp_path: Path
) -> None:
    asked = draws(6, 20)
    folder = SampleFolder(tmp_path / "samples", [draw.problem.id for draw in asked])
    with folder.lock():
        sampler = open_sampler(deadly="p0")  # the shortest: drawn last
        with pytest.raises(
            EvaluationError, match="2 Ray workers failed one after the other"
        ) as told:
            keep(folder, sampler.draw(asked, PROTOCOL))
        assert "problem p0" in str(told.value)
        sampler.close()
        missing = folder.missing(20)
        assert set(missing) == {"p0"}
        again = [Draw(problem=asked[0].problem, sample_indices=missing["p0"])]
        keep(folder, open_sampler(RayOptions(workers=1)).draw(again, PROTOCOL))
        assert not folder.missing(20)


@pytest.mark.slow
def test_a_mistake_of_the_user_is_told_and_not_tried_again(
    open_sampler: OpenSampler, tmp_path: Path
) -> None:
    sampler = open_sampler(too_long="p2")
    with pytest.raises(EvaluationError) as told:
        list(sampler.draw(draws(6, 20), PROTOCOL))
    assert told.value.what == "the prompt of problem p2 is too long"
    assert told.value.fix == "Cut it"
    assert len(began(tmp_path, "p2")) == 1
    assert not said


@pytest.mark.slow
def test_a_checkpoint_that_workers_cannot_see_is_told(cluster: Cluster, tmp_path: Path) -> None:
    engine = functools.partial(ScriptedSampler, tmp_path)
    with pytest.raises(CheckpointError, match=r"no folder .*none on the node") as told:
        RaySampler(tmp_path / "none", engine, OPTIONS)
    assert "every node mounts at the same path" in told.value.fix


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 1, "gpus_per_worker": 1.0}, "1 Ray workers with 1 CPU and 1 GPU each"),
        ({"workers": 10_000}, "10000 Ray workers with 1 CPU and 0 GPU each"),
    ],
)
def test_more_than_the_cluster_has_is_told_at_once(
    open_sampler: OpenSampler, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        open_sampler(RayOptions(**options))
    assert "its 1 nodes have: " in told.value.why
    assert "0 GPU" in told.value.why


@pytest.mark.slow
def test_a_cluster_that_is_taken_is_told_when_the_time_is_over(
    open_sampler: OpenSampler, cluster: Cluster
) -> None:
    n_cpus = cluster.ray.cluster_resources()["CPU"]
    everything = RayOptions(workers=1, cpus_per_worker=n_cpus)
    open_sampler(everything)
    with pytest.raises(EvaluationError, match=r"no worker was started within 0\.2 s") as told:
        open_sampler(dataclasses.replace(everything, start_timeout_s=0.2))
    assert "0 CPU and 0 GPU free" in told.value.why


@pytest.mark.slow
def test_after_kill_9_every_sample_is_there_once_with_the_text_that_hf_alone_draws(
    cluster: Cluster, tmp_path: Path
) -> None:
    """The tasks are the batches, so both engines draw equal batches, but for the killed one."""
    checkpoint = untrained_checkpoint(tmp_path / "checkpoint")
    protocol = records.Protocol(prompt_template="{problem}", max_tokens=24)
    asked = [
        Draw(
            problem=Problem(id=f"p{i}", text=f"{i}+2 mod 10", answers=("1",)),
            sample_indices=tuple(range(32)),
        )
        for i in range(20)
    ]
    options = dataclasses.replace(OPTIONS, task_samples=64)
    alone = open_hf(tmp_path, checkpoint, batch_size=32)
    expected = {
        (sample.problem_id, sample.sample_index): sample.text
        for task in split(asked, 2, options.task_samples)
        for part in alone.draw(task.draws, protocol)
        for sample in part
    }
    engine = functools.partial(open_hf, tmp_path, checkpoint, 32)
    told: list[str] = []
    sampler = RaySampler(checkpoint, engine, options, told.append)
    try:
        parts = []
        for part in sampler.draw(asked, protocol):
            if not parts:
                pids = [pid for pid in began(tmp_path, "worker") if pid != os.getpid()]
                os.kill(pids[0], signal.SIGKILL)
            parts.append(part)
    finally:
        sampler.close()
    assert keys(parts) == wanted(asked)
    assert {(s.problem_id, s.sample_index): s.text for part in parts for s in part} == expected
    assert len(told) == 1
    assert "worker failed" in told[0]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_evaluate_finds_with_ray_what_it_finds_with_hf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlite_uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    rows = [{"id": str(i), "problem": f"{i}+2", "answer": str(i + 2)} for i in range(3)]
    (tmp_path / "toy.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["evaluate", str(untrained_checkpoint(tmp_path / "sft")), "--samples", "4", "--json"]
    flags += ["--benchmark", str(tmp_path / "toy.jsonl"), "--max-tokens", "6", "--device", "cpu"]
    found = []
    for engine in (["hf"], ["ray", "--engine-option", "workers=1"]):
        own = ["--samples-dir", str(tmp_path / engine[0]), "--engine", *engine]
        done = CliRunner().invoke(main, [*flags, *own])
        assert done.exit_code == 0, done.output
        found.append(json.loads(done.stdout))
    assert found[1]["metrics"] == found[0]["metrics"]  # one batch, as with hf
    assert found[1]["samples"]["drawn"] == 12
    assert not found[1]["is_new"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"task_samples": 0}, "task_samples is 0"),
        ({"gpus_per_worker": -1.0}, "gpus_per_worker is -1"),
        ({"cpus_per_worker": float("nan")}, "cpus_per_worker is nan"),
        ({"cpus_per_worker": 0.0}, "take no CPU and no GPU"),
    ],
)
def test_an_option_that_cannot_be_meant_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RayOptions(**options)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "there is no Ray cluster at 127.0.0.1:1"),
        ("ray://127.0.0.1:10001", "cannot work through Ray's client"),
        ("nowhere", "nowhere cannot be joined"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(address: str, message: str) -> None:
    """In a process without a cluster: one that has one keeps to it."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlready[ray]'")
    code = f"from rlready.evaluators.sampling.ray_cluster import Cluster; Cluster({address!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: " in done.stderr
    assert message in done.stderr
