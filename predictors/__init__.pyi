from .calibration.predictor import CalibratedPredictor
from .decisions.ranking import Candidates, Ranking, rank
from .decisions.rl_plan import plan
from .decisions.start_check import StartRule, check_start
from .models.catalogue import make_model, model_names
from .predictive import Predictive
from .rl_curve import Curve, CurvePoint
from .search.space import RecipeSpace
from .search.space_file import parse_space, read_space
from .search.space_parts import Source
from .search.study import SurrogateSampler
from .training_table import TrainingTable, training_table
from .validation.report import ValidationReport
from .validation.validate import validate

__all__ = [
    "CalibratedPredictor",
    "Candidates",
    "Curve",
    "CurvePoint",
    "Predictive",
    "Ranking",
    "RecipeSpace",
    "Source",
    "StartRule",
    "SurrogateSampler",
    "TrainingTable",
    "ValidationReport",
    "check_start",
    "make_model",
    "model_names",
    "parse_space",
    "plan",
    "rank",
    "read_space",
    "training_table",
    "validate",
]
