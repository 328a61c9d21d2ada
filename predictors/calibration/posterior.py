"""What predictions and recorded outcomes together say about true scores.

Rows that the predictor was fitted on are predicted by the model that has not seen them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from rlready.predictors.calibration.predictor import CalibratedPredictor
from rlready.predictors.predictive import Predictive
from rlready.predictors.training_table import FloatArray, TrainingTable


def run_noise(predictor: CalibratedPredictor) -> float:
    """Return the standard deviation of one RL run's score around the true one; 0 if unknown."""
    noise = predictor.calibration_.rl_noise
    return noise if math.isfinite(noise) else 0.0


def unseen(predictor: CalibratedPredictor, table: TrainingTable) -> Predictive:
    """Return the distribution of true scores, from models that have not seen the row's outcome."""
    everything = predictor.predictive(table.X, noise=False)
    held_out = dict(zip(predictor.ids_, predictor.out_of_fold_, strict=True))
    mean = np.array([held_out.get(name, math.nan) for name in table.ids])
    return replace(everything, mean=np.where(np.isfinite(mean), mean, everything.mean))


def posterior(predictor: CalibratedPredictor, table: TrainingTable) -> Predictive:
    """Return the distribution of true scores, given the recorded outcomes.

    An outcome y with standard error s and a prediction m with row sd r and level sd g are weighted
    by their precisions. The error that remains is the row's own.
    """
    prior = unseen(predictor, table)
    has_outcome = np.isfinite(table.y)
    noise = np.where(np.isfinite(table.y_error), table.y_error, run_noise(predictor))
    total = prior.row_sd**2 + prior.group_sd**2
    weight = np.where(has_outcome, total / (total + noise**2), 0.0)
    return replace(
        prior,
        mean=prior.mean + weight * (np.where(has_outcome, table.y, prior.mean) - prior.mean),
        row_sd=np.where(has_outcome, np.sqrt(weight) * noise, prior.row_sd),
        group_sd=np.where(has_outcome, 0.0, prior.group_sd),
    )


def normal_interval(scores: Predictive, level: float) -> tuple[FloatArray, FloatArray]:
    """Return the ends of intervals that hold a share `level` of the rows' own errors."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return scores.mean - z * scores.row_sd, scores.mean + z * scores.row_sd
