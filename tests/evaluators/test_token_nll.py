"""Packing, and the choice of a way that is right for the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.evaluators.heldout.token_nll import Layout, Piece, Scorer, choose_scorer, plan_packs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

V = 300
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
}


def build(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-any-return]


def texts(*lengths: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, V, n) for n in lengths]


lengths_st = st.dictionaries(st.integers(0, 50), st.integers(2, 40), min_size=1, max_size=20)


@given(lengths_st, st.integers(1, 100), st.sampled_from(Layout))
def test_every_piece_is_in_one_pack_and_packs_keep_the_limit(
    lengths: dict[int, int], max_tokens: int, layout: Layout
) -> None:
    packs = plan_packs(lengths, layout, max_tokens)
    assert sorted(key for pack in packs for key in pack) == sorted(lengths)
    for pack in packs:
        sizes = [lengths[key] for key in pack]
        total = max(sizes) * len(sizes) if layout is Layout.PADDED else sum(sizes)
        assert len(pack) == 1 or total <= max_tokens
        assert layout is not Layout.SINGLE or len(pack) == 1


@given(lengths_st, st.integers(1, 100))
def test_packed_rows_are_more_than_half_full_on_average(
    lengths: dict[int, int], max_tokens: int
) -> None:
    packs = plan_packs(lengths, Layout.PACKED, max_tokens)
    filled = [sum(lengths[key] for key in pack) for pack in packs]
    # Of any two packs the pieces of one would not have fitted into the other.
    assert all(a + b > max_tokens for i, a in enumerate(filled) for b in filled[:i])


@pytest.mark.parametrize(
    ("name", "config", "layout"),
    [
        ("rotary", lambda: transformers.LlamaConfig(**SMALL), Layout.PACKED),
        (
            "tied",
            lambda: transformers.Qwen3Config(**SMALL, tie_word_embeddings=True),
            Layout.PACKED,
        ),
        (
            "learned positions",
            lambda: transformers.GPT2Config(
                vocab_size=V, n_positions=64, n_embd=32, n_layer=2, n_head=2
            ),
            Layout.PACKED,
        ),
        (
            "capped logits, sliding window",
            lambda: transformers.Gemma2Config(
                **SMALL, head_dim=16, final_logit_softcapping=2.0, sliding_window=8
            ),
            Layout.PACKED,
        ),
        (
            "scaled logits",
            lambda: transformers.GraniteConfig(**SMALL, logits_scaling=4.0),
            Layout.PACKED,
        ),
        (
            "experts",
            lambda: transformers.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
            Layout.PACKED,
        ),
        (
            "state space",
            lambda: transformers.MambaConfig(
                vocab_size=V, hidden_size=32, state_size=8, num_hidden_layers=2
            ),
            Layout.PADDED,
        ),
        (
            "bias by distance",
            lambda: transformers.BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=2),
            Layout.PADDED,
        ),
        (
            "a decoder inside the base model",
            lambda: transformers.OPTConfig(
                vocab_size=V,
                hidden_size=32,
                word_embed_proj_dim=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                ffn_dim=64,
            ),
            Layout.PADDED,
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fastest_right_way_is_found(name: str, config: Any, layout: Layout, dtype: str) -> None:
    model = build(config()).to(getattr(torch, dtype))
    with torch.inference_mode():
        scorer = choose_scorer(model, texts(40, 20, 9))
    assert scorer.layout is layout
    assert scorer.body is not None


def test_state_space_model_would_leak_if_packed() -> None:
    """Guards the check itself: without it a packed Mamba gives other numbers, silently."""
    model = build(
        transformers.MambaConfig(vocab_size=V, hidden_size=32, state_size=8, num_hidden_layers=2)
    )
    pieces = [Piece(ids, np.arange(len(ids)) > 0) for ids in texts(20, 20)]
    with torch.inference_mode():
        alone = Scorer(model, Layout.SINGLE, model.base_model).token_nlls(pieces[1:], 8)[0]
        packed = Scorer(model, Layout.PACKED, model.base_model).token_nlls(pieces, 8)[1]
    assert np.abs(packed - alone).max() > 1e-3


class LengthScaled(transformers.LlamaForCausalLM):  # type: ignore[misc,name-defined]
    """Does to its logits what feeding its head alone cannot repeat."""

    def forward(self, input_ids: Any = None, **options: Any) -> Any:
        """Logits, larger the longer the row."""
        output = super().forward(input_ids=input_ids, **options)
        output.logits = output.logits * input_ids.shape[1]
        return output


class LengthScaledKeeping(LengthScaled):
    """The same with a signature that lets single positions be asked for."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **options: Any) -> Any:
        """Logits of the positions asked for, larger the longer the row."""
        return super().forward(input_ids, logits_to_keep=logits_to_keep, **options)


@pytest.mark.parametrize("kind", [LengthScaled, LengthScaledKeeping])
def test_model_whose_head_cannot_be_fed_is_run_whole(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(transformers.LlamaConfig(**SMALL)).eval()
    [ids] = texts(12)
    with torch.inference_mode():
        scorer = choose_scorer(model, [ids])
        logits = model(input_ids=torch.from_numpy(ids)[None]).logits[0]
        [found] = scorer.token_nlls([Piece(ids, np.arange(len(ids)) > 4)], 3)
        expected = torch.nn.functional.cross_entropy(
            logits[4:-1], torch.from_numpy(ids)[5:], reduction="none"
        )
    assert (scorer.layout, scorer.body) == (Layout.SINGLE, None)
    assert found == pytest.approx(expected.numpy(), rel=1e-5)


def test_forward_of_the_body_is_put_back_after_a_failure() -> None:
    model = build(transformers.LlamaConfig(**SMALL))
    scorer = Scorer(model, Layout.PACKED, model.base_model)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(V, 5))
    with pytest.raises(RuntimeError), torch.inference_mode():
        scorer.token_nlls([Piece(texts(9)[0], np.arange(9) > 0)], 4)
    assert "forward" not in model.base_model.__dict__
