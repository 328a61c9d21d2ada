"""Names that the classes in stored predictors had in earlier versions.

A stored predictor names the module of each of its classes. When a class moves, its old name goes
here, so that registries of earlier versions can still be read.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

_IN_PREDICTORS = {
    "baselines.OneProxy": "models.baselines.OneProxy",
    "baselines.RankAverage": "models.baselines.RankAverage",
    "calibration.domain.Domain": "calibration.domain.TrainingDomain",
    "domain.Domain": "calibration.domain.TrainingDomain",
    "domain.Place": "calibration.domain.Place",
    "domain.Placed": "calibration.domain.Placed",
    "error_law.ErrorLaw": "calibration.error_law.ErrorLaw",
    "folds.FoldFit": "validation.folds.FoldFit",
    "gaussian_process.GaussianProcess": "models.gaussian_process.GaussianProcess",
    "gaussian_process.Process": "models.gaussian_process.Process",
    "gaussian_process._Kernel": "models.gaussian_process._Kernel",
    "group_intercept.GroupIntercept": "models.group_intercept.GroupIntercept",
    "intervals.Calibration": "calibration.intervals.Calibration",
    "intervals.Regime": "calibration.intervals.Regime",
    "intervals.Residuals": "calibration.intervals.Residuals",
    "mixture.MixtureRegressor": "models.mixture_shares.MixtureRegressor",
    "mixture_model.Belief": "search.surrogate.Belief",
    "mixture_model.MixtureModel": "search.surrogate.MixtureModel",
    "mixture_model._Rows": "search.surrogate._Rows",
    "multilevel.Multilevel": "models.multilevel.Multilevel",
    "multilevel._Equations": "models.multilevel.Equations",
    "pls.WeightedPLS": "models.pls.WeightedPLS",
    "predictor.CalibratedPredictor": "calibration.predictor.CalibratedPredictor",
    "signal.ProxySignal": "calibration.signal_test.ProxySignal",
    "signal.SignalReport": "calibration.signal_test.SignalReport",
}
_PREFIX = "rlready.predictors."
MOVED_TYPES = {_PREFIX + then: _PREFIX + now for then, now in _IN_PREDICTORS.items()}
"""Full name then -> full name now."""

_SCHEMA = "schema.json"


def with_current_names(path: Path) -> bytes:
    """Return a skops file in which every class has its present name.

    A damaged file can make zipfile or json raise anything.
    """
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        schema = json.loads(archive.read(_SCHEMA))
        if not _rename(schema):
            return content
        renamed = io.BytesIO()
        with zipfile.ZipFile(renamed, "w") as copy:
            for member in archive.infolist():
                is_schema = member.filename == _SCHEMA
                copy.writestr(
                    member, json.dumps(schema) if is_schema else archive.read(member.filename)
                )
    return renamed.getvalue()


def _rename(root: Any) -> bool:
    """Rename the classes in a schema in place. Return whether there was one to rename."""
    nodes, has_changed = [root], False
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            name = f"{node.get('__module__')}.{node.get('__class__')}"
            if name in MOVED_TYPES:
                node["__module__"], node["__class__"] = MOVED_TYPES[name].rsplit(".", 1)
                has_changed = True
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
    return has_changed
