from .training.base import shipped_base
from .training.grpo import GrpoResult, GrpoSettings
from .training.model import ModelSize, build_model
from .training.sft import SftRecipe, SftResult
from .training.tokenizer import world_tokenizer
from .world.benchmarks import write_benchmarks, write_heldout

__all__ = [
    "GrpoResult",
    "GrpoSettings",
    "ModelSize",
    "SftRecipe",
    "SftResult",
    "build_model",
    "shipped_base",
    "world_tokenizer",
    "write_benchmarks",
    "write_heldout",
]
