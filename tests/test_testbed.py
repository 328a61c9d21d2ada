"""The testbed: tasks, tokenizer, models, training and the demo's command."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rlready.testbed.model import build_model, untrained_checkpoint
from rlready.testbed.tokenizer import TURN_END, build_tokenizer

TOKENIZER = build_tokenizer()
DIALOGUE = [
    {"role": "user", "content": "Compute 3+4*7-2 mod 10, left to right."},
    {"role": "assistant", "content": "3+4=7\n7*7=9\n9-2=7\n\\boxed{7}"},
]


# ---------------------------------------------------------------- tokenizer


@given(st.text())
def test_any_text_comes_back_from_the_tokenizer_unchanged(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


def test_digits_are_always_tokens_of_their_own() -> None:
    assert TOKENIZER.tokenize("1024\\boxed{10}") == ["1", "0", "2", "4", "\\boxed{", "1", "0", "}"]


def test_the_template_renders_turns_and_opens_the_answer() -> None:
    text = TOKENIZER.apply_chat_template(DIALOGUE[:1], tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>user\nCompute 3+4*7-2 mod 10, left to right.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_assistant_mask_covers_the_response_and_its_end_token() -> None:
    encoded = TOKENIZER.apply_chat_template(
        DIALOGUE, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    masked = TOKENIZER.decode([token for token, is_response in pairs if is_response])
    assert masked == DIALOGUE[1]["content"] + TURN_END


# ------------------------------------------------------------------- models


def test_an_untrained_checkpoint_reloads_with_equal_logits_and_tokens(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = untrained_checkpoint(tmp_path / "untrained", seed=3)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(DIALOGUE[0]["content"] + " Zoë’s 12 eggs", return_tensors="pt").input_ids
    assert ids.tolist() == [TOKENIZER(DIALOGUE[0]["content"] + " Zoë’s 12 eggs").input_ids]
    assert tokenizer.chat_template == TOKENIZER.chat_template
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, build_model(TOKENIZER, seed=3)(ids).logits)
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(TURN_END)
    assert model.config.max_position_embeddings >= 2048
