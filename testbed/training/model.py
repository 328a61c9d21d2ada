"""The testbed's models: Qwen3 decoders of 0.1 to 1 M parameters, saved like any checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlready.testbed.training.tokenizer import MAX_LENGTH, world_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

HEAD_DIM = 32
"""The smallest head that the attention kernels of all sampling engines accept."""

_INITIAL_STD = 0.08
# The usual 0.02 suits a width of 1,000 and more. At width 96, after 600 steps of 32 examples, the
# training loss was 0.138 with 0.06, and 0.276 with 0.02.


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The shape of a decoder.

    Args:
        width: of the residual stream; a multiple of 32, the width of a head.
        n_layers: decoder layers.
        mlp_width: inner width of the gated MLP.

    Example:
        >>> ModelSize(width=96).n_heads
        3
    """

    width: int = 64
    n_layers: int = 3
    mlp_width: int = 192

    @property
    def n_heads(self) -> int:
        """Attention heads; each has its own keys and values."""
        return self.width // HEAD_DIM


def build_model(
    tokenizer: PreTrainedTokenizerBase, size: ModelSize | None = None, *, seed: int
) -> Qwen3ForCausalLM:
    """Build a model with random float32 weights, the same for the same seed, in evaluation mode.

    Args:
        tokenizer: gives the number of tokens, the end token and the padding token.
        size: its shape; None is the default one.
        seed: of the weights. torch's global random state is not changed.

    Example:
        >>> model = build_model(world_tokenizer(), ModelSize(n_layers=1), seed=0)
    """
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    size = size or ModelSize()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.mlp_width,
        num_hidden_layers=size.n_layers,
        num_attention_heads=size.n_heads,
        num_key_value_heads=size.n_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=_INITIAL_STD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.eval()
    return model


def save_checkpoint(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> Path:
    """Save an ordinary checkpoint (weights, configurations, tokenizer, chat template)."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def untrained_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Save a complete checkpoint with random weights, for tests and demonstrations."""
    tokenizer = world_tokenizer()
    return save_checkpoint(build_model(tokenizer, seed=seed), tokenizer, folder)
