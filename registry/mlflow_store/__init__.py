"""The registry kept in MLflow: checkpoints as logged models, outcomes, tags and predictors."""
