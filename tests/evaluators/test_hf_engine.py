"""The torch loop against the model's own forward pass and `model.generate`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from rlready.evaluators.benchmarks.prompts import encode, render
from rlready.evaluators.checkpoints.folder import load_model, load_tokenizer
from rlready.evaluators.sampling.hf import HfSampler, choose
from rlready.evaluators.sampling.sampler import Draw, UniformStreams, sample_seed
from rlready.registry.errors import CheckpointError, EvaluationError
from rlready.registry.records import Problem, Protocol, Sample
from rlready.testbed.training.model import untrained_checkpoint

PROTOCOL = Protocol(prompt_template="{problem}", max_tokens=24)
PROBLEMS = [Problem(id=str(i), text="1+2" + "*3" * i + " mod 10", answers=("1",)) for i in range(4)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = untrained_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    return load_model(folder, "cpu", torch.float32), load_tokenizer(folder)


def draw(
    checkpoint: tuple[Any, Any],
    n: int,
    protocol: Protocol = PROTOCOL,
    batch_size: int | None = None,
    problems: list[Problem] = PROBLEMS,
    indices: tuple[int, ...] = (),
) -> dict[tuple[str, int], Sample]:
    sampler = HfSampler(*checkpoint, batch_size)
    draws = [Draw(problem=p, sample_indices=indices or tuple(range(n))) for p in problems]
    parts = sampler.draw(draws, protocol)
    return {(s.problem_id, s.sample_index): s for part in parts for s in part}


def content(samples: dict[tuple[str, int], Sample]) -> dict[tuple[str, int], tuple[str, int, str]]:
    return {key: (s.text, s.n_tokens, s.finish_reason) for key, s in samples.items()}


def prompt_ids(checkpoint: tuple[Any, Any], problem: Problem) -> torch.Tensor:
    tokenizer = checkpoint[1]
    return torch.tensor([encode(tokenizer, render(tokenizer, "{problem}", problem.text))])


def test_the_same_call_draws_the_same_samples_bit_for_bit(checkpoint: tuple[Any, Any]) -> None:
    assert draw(checkpoint, 16) == draw(checkpoint, 16)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_samples_do_not_depend_on_the_batch(checkpoint: tuple[Any, Any], batch_size: int) -> None:
    """A flip needs a uniform number within 1e-6 of a boundary: odds below 1e-3 for this test."""
    assert content(draw(checkpoint, 16, batch_size=batch_size)) == content(draw(checkpoint, 16))


def test_any_subset_is_drawn_again_alike(checkpoint: tuple[Any, Any]) -> None:
    whole = content(draw(checkpoint, 16))
    part = content(draw(checkpoint, 0, problems=PROBLEMS[2:3], indices=(3, 11)))
    assert part == {key: whole[key] for key in part}
    assert len(part) == 2


def test_log_probabilities_and_entropies_equal_the_forward_pass(
    checkpoint: tuple[Any, Any],
) -> None:
    model, tokenizer = checkpoint
    for sample in draw(checkpoint, 4).values():
        problem = PROBLEMS[int(sample.problem_id)]
        prompt = prompt_ids(checkpoint, problem)
        ids = tokenizer(sample.text, add_special_tokens=False).input_ids
        if len(ids) != sample.n_tokens:
            continue  # the end token, or bytes that are no UTF-8: not to be encoded again
        whole = torch.cat([prompt, torch.tensor([ids])], dim=1)
        with torch.inference_mode():
            logits = model(input_ids=whole).logits[0, prompt.shape[1] - 1 : -1]
        log_probs = logits.log_softmax(-1)
        total = log_probs.gather(1, torch.tensor(ids)[:, None]).sum()
        entropy = -(log_probs.exp() * log_probs).sum()
        assert sample.logprob_sum == pytest.approx(float(total), abs=1e-4)
        assert sample.entropy_sum == pytest.approx(float(entropy), abs=1e-3)


def test_first_tokens_follow_the_models_distribution(checkpoint: tuple[Any, Any]) -> None:
    """Chi-square at the 0.1 % level: this seed is not one of the thousandth that fails."""
    model, tokenizer = checkpoint
    one = Protocol(prompt_template="{problem}", max_tokens=1)
    problem = PROBLEMS[1]
    with torch.inference_mode():
        logits = model(input_ids=prompt_ids(checkpoint, problem)).logits[0, -1]
    expected: Counter[str] = Counter()
    for token, probability in enumerate(logits.double().softmax(-1).tolist()):
        # Bytes that are no UTF-8 alone, and special tokens, come out as the same text.
        expected[tokenizer.decode([token], skip_special_tokens=True)] += probability
    n = 2000
    found = Counter(s.text for s in draw(checkpoint, n, one, problems=[problem]).values())
    often = [text for text, _ in expected.most_common(10)]
    observed = [*(found[text] for text in often), n - sum(found[text] for text in often)]
    shares = [*(expected[text] for text in often), 1 - sum(expected[text] for text in often)]
    assert stats.chisquare(observed, np.array(shares) * n).pvalue > 1e-3


def test_samples_of_different_seeds_indices_and_problems_differ() -> None:
    seeds = {sample_seed(s, p, i) for s in range(3) for p in "abc" for i in range(100)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_go_on_alike_when_rows_leave() -> None:
    alone = UniformStreams([7])
    together = UniformStreams([5, 7, 9])
    for step in range(600):
        if step == 100:
            together.keep(np.array([1, 2]))
        row = 1 if step < 100 else 0
        assert together.next()[row] == alone.next()[0]


@pytest.mark.parametrize(("top_p", "expected"), [(1.0, {0, 1, 2}), (0.6, {0, 1}), (0.45, {0})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, expected: set[int]) -> None:
    protocol = Protocol(prompt_template="{problem}", top_p=top_p)
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(500, 1)
    uniforms = torch.linspace(0, 0.9999, 500, dtype=torch.float64)
    tokens, _ = choose(logits, uniforms, protocol)
    assert set(tokens.tolist()) == expected


def test_temperature_sharpens_but_log_probabilities_stay_the_models() -> None:
    logits = torch.log(torch.tensor([[0.6, 0.4]])).repeat(1000, 1)
    uniforms = torch.linspace(0, 0.9999, 1000, dtype=torch.float64)
    cold = Protocol(prompt_template="{problem}", temperature=0.5)
    tokens, sums = choose(logits, uniforms, cold)
    assert float((tokens == 0).double().mean()) == pytest.approx(0.36 / 0.52, abs=2e-3)
    assert float(sums[0, 0]) == pytest.approx(np.log(0.6), abs=1e-6)


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    uniforms = torch.tensor([0.0, 0.5, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    tokens, sums = choose(logits, uniforms, PROTOCOL)
    assert tokens.tolist() == [1, 1, 1]
    assert torch.isfinite(sums).all()


def test_a_prompt_beyond_the_context_is_named(checkpoint: tuple[Any, Any]) -> None:
    long = Protocol(prompt_template="{problem}", max_tokens=5000)
    with pytest.raises(EvaluationError, match=r"problem 0 has .* Lower --max-tokens"):
        draw(checkpoint, 1, long)


def test_logits_that_overflow_are_an_error_before_the_first_sample(tmp_path: Path) -> None:
    folder = untrained_checkpoint(tmp_path)
    model, tokenizer = load_model(folder, "cpu", torch.float32), load_tokenizer(folder)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(3e38)
    message = (
        r"logits of problem \d are NaN or infinite, first in the output of "
        r"model\.layers\.1\.mlp\.\w+: .*overflows float32\. Training probably diverged"
    )
    with pytest.raises(EvaluationError, match=message):
        draw((model, tokenizer), 2)


def test_a_token_beyond_the_embedding_is_an_error_of_the_checkpoint(tmp_path: Path) -> None:
    folder = untrained_checkpoint(tmp_path)
    model, tokenizer = load_model(folder, "cpu", torch.float32), load_tokenizer(folder)
    tokenizer.add_tokens(["<image>"])
    problem = Problem(id="7", text="1+2 <image>", answers=("3",))
    with pytest.raises(CheckpointError, match=r"prompt of problem 7 has token \d+: the embedding"):
        draw((model, tokenizer), 1, problems=[problem])


def test_out_of_memory_halves_the_batch_and_goes_on(checkpoint: tuple[Any, Any]) -> None:
    model, tokenizer = checkpoint
    rows: list[int] = []

    def limited(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows.append(len(kwargs["input_ids"]))
        if rows[-1] > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.register_forward_pre_hook(limited, with_kwargs=True)
    try:
        found = content(draw((model, tokenizer), 16, batch_size=64))
    finally:
        hook.remove()
    assert found == content(draw((model, tokenizer), 16))
    assert max(rows) > 10


def _config(name: str, n_tokens: int, **extra: Any) -> Any:
    import transformers

    shape = {
        "vocab_size": n_tokens,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "pad_token_id": 0,
        "eos_token_id": 5,
    }
    return getattr(transformers, name)(**{**shape, **extra})


def make_model(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("LlamaConfig", {}),
        ("Qwen3Config", {}),
        ("MistralConfig", {"sliding_window": 8}),
        ("Gemma2Config", {"sliding_window": 8}),
        ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    ],
)
def test_greedy_tokens_equal_generate_for_unequal_prompts(
    name: str, extra: dict[str, Any], checkpoint: tuple[Any, Any]
) -> None:
    """Padding, positions and every kind of cache layer are right if batching changes nothing."""
    tokenizer = checkpoint[1]
    model = make_model(_config(name, len(tokenizer), **extra))
    greedy = Protocol(prompt_template="{problem}", temperature=0.0, max_tokens=20)
    found = draw((model, tokenizer), 1, greedy)
    for problem in PROBLEMS:
        prompt = prompt_ids(checkpoint, problem)
        with torch.inference_mode():
            ids = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=20,
                eos_token_id=[5, tokenizer.eos_token_id],
                pad_token_id=0,
            )[0, prompt.shape[1] :]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert found[(problem.id, 0)].text == text


@pytest.mark.gpu
def test_bfloat16_on_a_gpu_draws_from_the_same_distribution(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder = untrained_checkpoint(tmp_path)
    tokenizer = load_tokenizer(folder)
    on_gpu = (load_model(folder, "cuda", torch.bfloat16), tokenizer)
    on_cpu = (load_model(folder, "cpu", torch.float32), tokenizer)
    lengths = [
        [s.logprob_sum for s in draw(where, 256, problems=PROBLEMS[:1]).values()]
        for where in (on_gpu, on_cpu)
    ]
    assert stats.ks_2samp(*lengths).pvalue > 1e-3
