from .errors import (
    BenchmarkError,
    CheckpointError,
    ConfigError,
    CurveError,
    EvaluationError,
    RecordError,
    RlreadyError,
    SamplesError,
    StoreError,
)
from .mlflow_store.predictors.records import FittedPredictor, LoadedPredictor, PredictorMeta
from .mlflow_store.predictors.store import get_predictor, put_predictor
from .mlflow_store.store import MlflowStore
from .outcomes import Outcome
from .readiness_tag import Readiness, ReadinessTag
from .records import (
    Checkpoint,
    Evaluation,
    Problem,
    Protocol,
    Proxy,
    Recipe,
    Sample,
    Verdict,
)
from .store import (
    MemoryStore,
    Store,
    StoredCheckpoint,
    StoredEvaluation,
    StoredOutcome,
)
from .table import CheckpointTable, checkpoint_table

__all__ = [
    "BenchmarkError",
    "Checkpoint",
    "CheckpointError",
    "CheckpointTable",
    "ConfigError",
    "CurveError",
    "Evaluation",
    "EvaluationError",
    "FittedPredictor",
    "LoadedPredictor",
    "MemoryStore",
    "MlflowStore",
    "Outcome",
    "PredictorMeta",
    "Problem",
    "Protocol",
    "Proxy",
    "Readiness",
    "ReadinessTag",
    "Recipe",
    "RecordError",
    "RlreadyError",
    "Sample",
    "SamplesError",
    "Store",
    "StoreError",
    "StoredCheckpoint",
    "StoredEvaluation",
    "StoredOutcome",
    "Verdict",
    "checkpoint_table",
    "get_predictor",
    "put_predictor",
]
