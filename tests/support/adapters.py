"""Real LoRA adapters of small models, written by peft."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from rlready.evaluators.checkpoints.folder import load_model
from rlready.registry.whole_file import replacing


def make_adapter(
    folder: Path, base: Path, *, seed: int = 0, noise: float = 0.05, **lora: Any
) -> Path:
    """Save an adapter of a base model whose factors are random numbers.

    Args:
        folder: folder of the adapter.
        base: folder of the base model, which the adapter names.
        seed: of the factors.
        noise: standard deviation of what is added to fresh factors; 0 leaves B at zero.
        lora: settings of `peft.LoraConfig`.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model: Any = load_model(base, "cpu", torch.float32)
        adapted = get_peft_model(model, LoraConfig(**{**settings, **lora}))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += noise * torch.randn_like(parameter)
        adapted.save_pretrained(folder)
    change_config(folder, base_model_name_or_path=str(base))
    return folder


def change_config(folder: Path, **values: Any) -> None:
    """Change settings in an adapter's configuration."""
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text()) | values
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(settings))
