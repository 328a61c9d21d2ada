"""The classes that a stored predictor may hold."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module

_HOLDERS = ("bound", "calibration", "models", "features", "scales", "validation.folds")
"""Packages and modules of `rlready.predictors` whose classes a stored predictor may hold."""

_TREES = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""Classes of scikit-learn's tree models. They hold arrays, not code. Invalid arrays could crash the
process, so the digest of the file is checked first."""


def trusted_types() -> list[str]:
    """Return the full names of the classes that a stored predictor may hold.

    Example:
        >>> "rlready.predictors.models.multilevel.Multilevel" in trusted_types()
        True
    """
    return sorted({*_TREES, *_our_classes()})


def _our_classes() -> Iterator[str]:
    for holder in _HOLDERS:
        module = import_module(f"rlready.predictors.{holder}")
        paths = getattr(module, "__path__", ())
        inner = [import_module(f"{module.__name__}.{m.name}") for m in pkgutil.iter_modules(paths)]
        for each in (module, *inner):
            for _, one in inspect.getmembers(each, inspect.isclass):
                if one.__module__ == each.__name__:
                    yield f"{one.__module__}.{one.__qualname__}"
