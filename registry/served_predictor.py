"""The place where MLflow looks for the loader of stored predictors.

This name is in their MLmodel files; the loader itself is in
`registry/mlflow_store/predictors/served_predictor.py`.
"""

from rlready.registry.mlflow_store.predictors.served_predictor import _load_pyfunc as _load_pyfunc
