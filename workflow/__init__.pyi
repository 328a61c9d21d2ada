from .callbacks.record_outcome import RecordOutcome
from .callbacks.register_checkpoints import RegisterCheckpoints
from .evaluate.config import EvaluateConfig
from .evaluate.evaluator import evaluate_checkpoint
from .predict.fit import fit
from .predict.outcome import OutcomeConfig
from .predict.rank import rank_registry
from .progress import Clock
from .rl_prompts.config import PreflightConfig
from .rl_prompts.preflight import preflight
from .search.manifest_rows import ManifestRow, read_manifest

__all__ = [
    "Clock",
    "EvaluateConfig",
    "ManifestRow",
    "OutcomeConfig",
    "PreflightConfig",
    "RecordOutcome",
    "RegisterCheckpoints",
    "evaluate_checkpoint",
    "fit",
    "preflight",
    "rank_registry",
    "read_manifest",
]
