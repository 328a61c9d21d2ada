"""The place where MLflow looks for the loader of predictors that earlier versions stored.

The name stands in their MLmodel files; the loader itself is in
`registry/mlflow_store/predictors/served_predictor.py`.
"""

from rlready.registry.mlflow_store.predictors.served_predictor import _load_pyfunc as _load_pyfunc
