"""The whole path: real weights, real samples, a real MLflow database, and kill -9 in its midst."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import ROOT
from workplace import N_PROBLEMS, N_SAMPLES, Workplace

from rlready.registry.mlflow_store.store import MlflowStore
from rlready.testbed.training.model import untrained_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "sft")


@pytest.fixture
def place(tmp_path: Path, checkpoint: Path, empty_database: Path) -> Workplace:
    return Workplace(tmp_path / "place", checkpoint, empty_database)


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, empty_database: Path
) -> tuple[Workplace, dict[str, Any]]:
    """A run that nothing disturbed."""
    place = Workplace(tmp_path_factory.mktemp("reference"), checkpoint, empty_database)
    return place, place.report()


def _values(report: dict[str, Any]) -> dict[str, Any]:
    return {key: report[key] for key in ("checkpoint_id", "metrics", "verdicts")}


def test_a_report_holds_what_the_contract_names(
    reference: tuple[Workplace, dict[str, Any]],
) -> None:
    _, report = reference
    assert report["samples"] == {"drawn": N_PROBLEMS * N_SAMPLES, "found": 0}
    assert sum(report["verdicts"]["toy"].values()) == N_PROBLEMS * N_SAMPLES
    assert set(report["metrics"]) == {"toy", "held"}
    assert {"pass_at_1", "pass_at_4", "signal_share_8", "token_entropy", "response_tokens"} <= set(
        report["metrics"]["toy"]
    )
    assert set(report["metrics"]["held"]["heldout_nll"]) >= {"value", "se"}
    assert report["stages"]["sampling"]["tokens_per_s"] > 0
    assert report["model_id"].startswith("m-")


def test_the_registry_holds_what_was_reported(
    reference: tuple[Workplace, dict[str, Any]],
) -> None:
    place, report = reference
    (stored,) = MlflowStore(place.uri).checkpoints()
    assert stored.checkpoint.id == report["checkpoint_id"]
    found = {(p.benchmark, p.name): p.value for p in stored.proxies}
    reported = {
        (benchmark, name): entry["value"]
        for benchmark, entries in report["metrics"].items()
        for name, entry in entries.items()
    }
    assert found == reported


def test_a_second_run_draws_nothing_and_adds_nothing(
    reference: tuple[Workplace, dict[str, Any]],
) -> None:
    place, report = reference
    again = place.report()
    assert _values(again) == _values(report)
    assert again["samples"] == {"drawn": 0, "found": N_PROBLEMS * N_SAMPLES}
    assert not again["is_new"]
    assert again["model_id"] == report["model_id"]


def test_more_samples_top_up_and_keep_what_is_there(place: Workplace) -> None:
    place.report("--samples", "3")
    before = place.texts()
    more = place.report("--samples", "6")
    assert more["samples"] == {"drawn": N_PROBLEMS * 3, "found": N_PROBLEMS * 3}
    after = place.texts()
    assert before.items() <= after.items()
    assert len(MlflowStore(place.uri).checkpoints()) == 1


KILLS = {
    "before the third part": ("rlready.evaluators.sampling.sample_files", "SampleFolder.add", 3),
    "while writing a part": ("pathlib", "Path.replace", 3),
    "before the second part is judged": (
        "rlready.evaluators.sampling.sample_files",
        "SampleFolder.judge",
        2,
    ),
    "before losses are written": ("rlready.evaluators.heldout.loss_files", "with_digest", 1),
    "before metrics are logged": ("mlflow", "MlflowClient.log_batch", 1),
    "before the model is finished": ("mlflow", "MlflowClient.finalize_logged_model", 1),
    "before the run is finished": ("mlflow", "MlflowClient.set_terminated", 1),
}


def _kill_at(module: str, name: str, call: int) -> str:
    """Lines that end their own process by SIGKILL at the n-th call of a function."""
    return f"""
import os, signal, {module}
owner, attribute = {module}, {name!r}
while "." in attribute:
    first, attribute = attribute.split(".", 1)
    owner = getattr(owner, first)
original, calls = getattr(owner, attribute), []
def killing(*args, **kwargs):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(owner, attribute, killing)
"""


def test_damaged_files_are_named_and_made_again(place: Workplace) -> None:
    """An edited digit was logged as a new result, a flipped bit ended every run in a traceback."""
    before = place.report()
    (losses,) = place.folder.glob("samples/*/heldout-*.json")
    digit = next(c for c in losses.read_text().partition('"nll_sum": ')[2] if c in "12345678")
    losses.write_text(losses.read_text().replace(f'"nll_sum": {digit}', f'"nll_sum": {digit}9', 1))
    part = next(place.folder.glob("samples/*/*/part-*.parquet"))
    content = bytearray(part.read_bytes())
    content[40] ^= 0xFF  # in the first page
    part.write_bytes(content)
    again = place.report()
    assert _values(again) == _values(before)
    warnings = " ".join(again["warnings"])
    assert f"{part.stem}.damaged is damaged and was set aside" in warnings
    assert f"{losses.name} is damaged (its content does not match its digest)" in warnings


@pytest.mark.parametrize("moment", list(KILLS))
def test_a_rerun_after_kill_9_ends_as_if_nothing_had_happened(
    place: Workplace, reference: tuple[Workplace, dict[str, Any]], moment: str
) -> None:
    undisturbed, report = reference
    killed = place.run(patch=_kill_at(*KILLS[moment]))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert MlflowStore(place.uri).checkpoints() == [] or moment == "before the run is finished"
    again = place.report()
    assert _values(again) == _values(report)
    assert place.texts() == undisturbed.texts()
    assert place.counts() == undisturbed.counts()
    (stored,) = MlflowStore(place.uri).checkpoints()
    assert len(stored.proxies) == sum(map(len, report["metrics"].values()))


def test_adaptive_sampling_keeps_what_it_drew_for_the_unbiased_number(place: Workplace) -> None:
    first = place.report("--adaptive", "--target-se", "0.000001", "--samples", "6", "--k", "1,16")
    assert first["samples"]["drawn"] <= 6 * N_PROBLEMS
    metrics = first["metrics"]["toy"]
    assert 0.0 <= metrics["pass_at_16_est"]["value"] <= 1.0
    assert metrics["pass_at_16_est"]["se_within"] > 0.0
    assert "pass_at_16" not in metrics
    drawn = {row["problem_id"]: row["n"] for row in place.counts()}
    assert min(drawn.values()) >= 4
    again = place.report("--adaptive", "--target-se", "0.000001", "--samples", "6", "--k", "1,16")
    assert again["samples"]["drawn"] == 0
    assert again["evaluation_id"] == first["evaluation_id"]
    even = place.report("--samples", "6")
    assert even["samples"]["drawn"] == sum(max(0, 6 - n) for n in drawn.values())
    assert "pass_at_4_est" not in even["metrics"]["toy"]


def test_adaptive_sampling_ends_at_the_target(place: Workplace) -> None:
    report = place.report("--target-se", "0.9", "--k", "64")
    assert report["samples"]["drawn"] == 4 * N_PROBLEMS
    assert set(report["metrics"]["toy"]) >= {"pass_at_64_est"}


def test_a_corrupt_part_is_told_and_its_samples_drawn_again(
    place: Workplace, reference: tuple[Workplace, dict[str, Any]]
) -> None:
    place.report()
    part = sorted(place.folder.glob("samples/*/*/part-*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:50])
    again = place.report()
    assert "is damaged and was set aside" in again["warnings"][0]
    assert again["samples"]["drawn"] == 8
    assert place.texts() == reference[0].texts()


def test_thoughts_that_the_chat_template_cuts_are_told(place: Workplace) -> None:
    place.checkpoint = shutil.copytree(place.checkpoint, place.folder / "thinking")
    (place.checkpoint / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + m['content'].split('</think>')[-1] + eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    turns = [
        {"role": "user", "content": "2+3"},
        {"role": "assistant", "content": "<think>so</think>5"},
    ]
    place.held_out.write_text(json.dumps({"messages": turns}))
    (told,) = [text for text in place.report()["warnings"] if text.startswith("held: ")]
    assert told.startswith(
        "held: 17 of 18 response bytes are not scored, because the chat template"
    )


def test_an_unreachable_registry_is_told_before_anything_is_drawn(place: Workplace) -> None:
    done = place.run("--tracking-uri", "http://127.0.0.1:1")
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(place.folder.glob("samples/*/*/part-*"))


def test_a_registry_that_fails_at_the_end_loses_no_sample(place: Workplace) -> None:
    patch = """
import mlflow
from mlflow.exceptions import MlflowException
def failing(*args, **kwargs):
    raise MlflowException("the server went away")
mlflow.MlflowClient.log_batch = failing
"""
    done = place.run(patch=patch)
    assert done.returncode == 2, done.stderr
    assert "repeat the command" in done.stderr
    assert "Traceback" not in done.stderr
    again = place.report()
    assert again["samples"]["drawn"] == 0
    assert again["is_new"]


def test_mlflow_run_logs_into_its_own_run(place: Workplace) -> None:
    root = ROOT
    parameters = {
        "checkpoint": place.checkpoint,
        "benchmark": f"toy={place.benchmark}",
        "samples": 2,
        "max-tokens": 4,
        "samples-dir": place.folder / "samples",
    }
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(root), "-e", "evaluate"]
        + ["--env-manager=local", "--experiment-name", "rlready"]
        + [part for name, value in parameters.items() for part in ("-P", f"{name}={value}")],
        capture_output=True,
        text=True,
        cwd=place.folder,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": place.uri,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (stored,) = MlflowStore(place.uri).checkpoints()
    assert {p.name for p in stored.proxies} >= {"pass_at_1", "response_tokens"}

    from mlflow import MlflowClient

    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name("rlready")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics
