"""Held-out losses equal plain cross-entropy over full logits, however examples are put together."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlready.evaluators.heldout.loss import (
    EVALUATOR_VERSION,
    ExampleLoss,
    context_tokens,
    example_losses,
    heldout_proxies,
)
from rlready.evaluators.heldout.loss_files import Losses, read_losses, write_losses
from rlready.evaluators.heldout.tokens import TokenizedExample
from rlready.registry.errors import CheckpointError, EvaluationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V = 300
CONTEXT = 128
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    # Ten times the usual spread: otherwise every context gives much the same prediction.
    "initializer_range": 0.2,
}


@cache
def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = {
        "llama": lambda: transformers.LlamaConfig(**SMALL),
        "qwen3": lambda: transformers.Qwen3Config(**SMALL, tie_word_embeddings=True),
        "gpt2": lambda: transformers.GPT2Config(
            vocab_size=V, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2
        ),
        "gemma2": lambda: transformers.Gemma2Config(
            **SMALL, head_dim=16, final_logit_softcapping=2.0, sliding_window=8
        ),
        "mamba": lambda: transformers.MambaConfig(
            vocab_size=V, hidden_size=32, state_size=8, num_hidden_layers=2
        ),
    }[name]()
    return transformers.AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-any-return]


MODELS = ("llama", "qwen3", "gpt2", "gemma2", "mamba")


def examples(*lengths: int, seed: int = 0) -> list[TokenizedExample]:
    """Random tokens; about half of each example is scored, in stretches as in conversations."""
    rng = np.random.default_rng(seed)
    made = []
    for i, n in enumerate(lengths):
        is_response = rng.random(n).cumsum() % 2 > 1
        is_response[0], is_response[-1] = False, True
        made.append(TokenizedExample(f"e{i}", rng.integers(3, V, n), is_response, 3 * n))
    return made


def naive_sum(model: PreTrainedModel, example: TokenizedExample) -> float:
    """Full logits of the example alone, in float32."""
    ids = torch.from_numpy(example.token_ids)
    with torch.inference_mode():
        logits = model(input_ids=ids[None]).logits[0].float()
    nll = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none").double()
    return float(nll[torch.from_numpy(example.is_response[1:])].sum())


def sums(losses: list[ExampleLoss]) -> list[float]:
    return [loss.nll_sum for loss in losses]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("tokens", "rows"), [(1, 1), (64, 5), (1024, 128)])
def test_losses_equal_full_logits_for_every_pack_size(name: str, tokens: int, rows: int) -> None:
    model, made = build(name), examples(40, 7, 2, 90, 23, 7, 61)
    losses = example_losses(model, made, max_tokens_per_pack=tokens, rows_per_chunk=rows)
    assert sums(losses) == pytest.approx([naive_sum(model, e) for e in made], rel=1e-5)
    assert [loss.id for loss in losses] == [e.id for e in made]
    assert [loss.n_tokens for loss in losses] == [int(e.is_response.sum()) for e in made]
    assert [loss.n_bytes for loss in losses] == [e.n_response_bytes for e in made]


@settings(max_examples=25)
@given(
    st.lists(st.integers(2, 100), min_size=1, max_size=9),
    st.sampled_from(MODELS),
    st.integers(1, 300),
    st.integers(1, 40),
)
def test_losses_equal_full_logits_for_ragged_lengths(
    lengths: list[int], name: str, tokens: int, rows: int
) -> None:
    model, made = build(name), examples(*lengths, seed=sum(lengths))
    losses = example_losses(model, made, max_tokens_per_pack=tokens, rows_per_chunk=rows)
    assert sums(losses) == pytest.approx([naive_sum(model, e) for e in made], rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_losses_equal_a_padded_batch_whatever_the_side(side: str) -> None:
    model, made = build("qwen3"), examples(40, 7, 2, 90)
    width = max(len(e.token_ids) for e in made)
    ids = torch.zeros(len(made), width, dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for i, e in enumerate(made):
        at = slice(width - len(e.token_ids), None) if side == "left" else slice(len(e.token_ids))
        ids[i, at], mask[i, at] = torch.from_numpy(e.token_ids), 1
        labels[i, at] = torch.from_numpy(np.where(e.is_response, e.token_ids, -100))
    with torch.inference_mode():
        golden = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    losses = example_losses(model, made)
    assert sum(sums(losses)) / sum(e.is_response.sum() for e in made) == pytest.approx(
        float(golden), rel=1e-5
    )


@pytest.mark.parametrize("name", MODELS)
def test_an_example_has_the_loss_that_transformers_gives_for_its_labels(name: str) -> None:
    model, [made] = build(name), examples(50)
    labels = torch.from_numpy(np.where(made.is_response, made.token_ids, -100))[None]
    with torch.inference_mode():
        golden = model(input_ids=torch.from_numpy(made.token_ids)[None], labels=labels).loss
    [loss] = example_losses(model, [made])
    assert loss.nll_sum / loss.n_tokens == pytest.approx(float(golden), rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_an_example_does_not_depend_on_its_company_or_place(name: str) -> None:
    model, made = build(name), examples(40, 7, 2, 90, 23)
    alone = [example_losses(model, [e])[0].nll_sum for e in made]
    turned = example_losses(model, made[::-1])
    among_others = example_losses(model, made + examples(30, 31, 32, seed=9))
    assert sums(turned)[::-1] == pytest.approx(alone, rel=1e-5)
    assert sums(among_others)[:5] == pytest.approx(alone, rel=1e-5)


def test_half_precision_sums_in_float32() -> None:
    model = transformers.AutoModelForCausalLM.from_config(build("llama").config)
    model = model.to(torch.bfloat16).eval()
    made = examples(100, 80, 60)
    expected = [naive_sum(model, e) for e in made]
    assert sums(example_losses(model, made)) == pytest.approx(expected, rel=2e-3)
    assert sums(example_losses(model, made[:1])) == pytest.approx(expected[:1], rel=1e-4)


def test_model_is_evaluated_without_dropout_and_left_as_it_was() -> None:
    model, made = build("gpt2"), examples(40, 7)
    expected = sums(example_losses(model, made))
    model.train()
    model.transformer.h[0].eval()
    try:
        assert sums(example_losses(model, made)) == expected
        assert model.training
        assert not model.transformer.h[0].attn.training
        assert model.transformer.h[1].attn.training
    finally:
        model.eval()


def test_memory_running_out_makes_packs_smaller_and_changes_nothing() -> None:
    model, made = build("llama"), examples(40, 7, 2, 90, 23, 7, 61)
    expected, seen = sums(example_losses(model, made)), []

    def refuse_large(_: Any, inputs: Any, options: Any) -> None:
        seen.append(options["input_ids"].numel())
        if seen[-1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    hook = model.base_model.register_forward_pre_hook(refuse_large, with_kwargs=True)
    try:
        found = sums(example_losses(model, made, max_tokens_per_pack=1024))
    finally:
        hook.remove()
    assert max(seen) > 100
    assert found == pytest.approx(expected, rel=1e-5)


def test_example_that_does_not_fit_alone_is_named() -> None:
    model, made = build("llama"), examples(7, 120)

    def refuse_large(_: Any, inputs: Any, options: Any) -> None:
        if options["input_ids"].numel() > 110:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    hook = model.base_model.register_forward_pre_hook(refuse_large, with_kwargs=True)
    try:
        with pytest.raises(EvaluationError, match=r"e1 does not fit into memory alone.*120 tokens"):
            example_losses(model, made)
    finally:
        hook.remove()


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    model = build("llama")

    def fail(_: Any, inputs: Any, options: Any) -> None:
        raise RuntimeError("expected scalar type Float")

    hook = model.base_model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        with pytest.raises(RuntimeError, match="scalar type"):
            example_losses(model, examples(7))
    finally:
        hook.remove()


def test_loss_that_is_not_finite_names_its_example() -> None:
    import copy

    model = copy.deepcopy(build("llama"))
    made = examples(20, 30)
    alone = int(made[1].token_ids[25])
    made[0].token_ids[made[0].token_ids == alone] = 3
    with torch.no_grad():
        model.get_input_embeddings().weight[alone] = math.nan
    made[1].is_response[-1] = True
    with pytest.raises(EvaluationError, match="held-out example e1 is nan"):
        example_losses(model, made)


def test_wholly_broken_model_names_an_example() -> None:
    import copy

    model = copy.deepcopy(build("llama"))
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(EvaluationError, match="is nan"):
        example_losses(model, examples(20, 30))


def test_examples_that_cannot_be_meant_for_the_model_are_refused() -> None:
    model = build("gpt2")
    assert context_tokens(model.config) == CONTEXT
    with pytest.raises(EvaluationError, match=rf"129 tokens.*context is {CONTEXT}"):
        example_losses(model, examples(CONTEXT + 1))
    [foreign] = examples(9)
    foreign.token_ids[4] = V
    with pytest.raises(CheckpointError, match=r"token 300.*300 tokens"):
        example_losses(model, [foreign])
    [silent] = examples(9)
    silent.is_response[:] = False
    with pytest.raises(EvaluationError, match="scores no token"):
        example_losses(model, [silent])


def test_progress_counts_examples() -> None:
    done: list[int] = []
    example_losses(
        build("llama"), examples(40, 7, 90), max_tokens_per_pack=64, on_progress=done.append
    )
    assert done == sorted(set(done))
    assert done[-1] == 3
    assert example_losses(build("llama"), []) == []


def test_pack_stays_below_where_rotary_frequencies_change() -> None:
    """Phi-3 takes its long factors for a whole row once one position passes its first context."""
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
    }
    config = transformers.Phi3Config(
        **SMALL,
        pad_token_id=0,
        eos_token_id=0,
        original_max_position_embeddings=32,
        rope_parameters=rope,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    made = examples(90, 20, 20, 9)
    expected = [naive_sum(model, e) for e in made]
    assert sums(example_losses(model, made)) == pytest.approx(expected, rel=1e-5)


def losses_of(*rows: tuple[float, int, int]) -> list[ExampleLoss]:
    return [ExampleLoss(f"e{i}", *row) for i, row in enumerate(rows)]


def test_proxies_are_sums_over_sums_and_a_mean_of_sums() -> None:
    token, sequence, bits = heldout_proxies(losses_of((6.0, 2, 10), (4.0, 8, 30)), "own", "0" * 32)
    assert (token.name, token.value, token.unit) == ("heldout_nll", 1.0, "nats/token")
    assert (sequence.name, sequence.value) == ("heldout_nll_per_sequence", 5.0)
    assert bits.name == "heldout_bits_per_byte"
    assert bits.value == pytest.approx(10 / math.log(2) / 40)
    assert (token.n_problems, token.n_samples, token.benchmark) == (2, 10, "own")
    assert {p.evaluator_version for p in (token, sequence, bits)} == {EVALUATOR_VERSION}


def test_standard_error_of_the_mean_is_the_usual_one() -> None:
    values = [6.0, 4.0, 9.0, 5.5]
    proxy = heldout_proxies(losses_of(*((v, 3, 7) for v in values)), "own", "0" * 32)[1]
    assert proxy.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(4))


def test_standard_error_of_the_ratio_matches_repeated_draws() -> None:
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(2000):
        n_tokens = rng.integers(5, 200, 60)
        nll = n_tokens * rng.gamma(4.0, 0.2, 60)
        rows = zip(nll.tolist(), n_tokens.tolist(), n_tokens.tolist(), strict=True)
        draws.append(heldout_proxies(losses_of(*rows), "own", "0" * 32)[0])
    spread = np.std([proxy.value for proxy in draws])
    assert np.mean([proxy.se for proxy in draws if proxy.se]) == pytest.approx(spread, rel=0.06)


def test_one_example_has_no_standard_error_and_none_is_refused() -> None:
    assert {p.se for p in heldout_proxies(losses_of((6.0, 2, 10)), "own", "0" * 32)} == {None}
    with pytest.raises(EvaluationError, match="no loss to average"):
        heldout_proxies([], "own", "0" * 32)


def test_what_was_not_scored_is_told_from_the_losses_on_disk(tmp_path: Path) -> None:
    """Whoever reads the second report has not seen the first."""
    losses = Losses(
        benchmark_digest="d",
        examples=(ExampleLoss("a", 1.0, 2, 3),),
        n_truncated=1,
        n_skipped=0,
        n_turn_bytes=2_048,
        n_cut_bytes=1_024,
    )
    write_losses(tmp_path / "losses.json", losses)
    read = read_losses(tmp_path / "losses.json", pytest.fail)
    assert read is not None
    assert read == losses
    truncated, cut = read.warnings("held")
    assert truncated.startswith("held: 1 examples were cut at the model's context and 0 left out")
    assert cut.startswith("held: 1,024 of 2,048 response bytes are not scored, because the chat")
    whole = dataclasses.replace(losses, n_truncated=0, n_cut_bytes=0)
    assert whole.warnings("held") == []
