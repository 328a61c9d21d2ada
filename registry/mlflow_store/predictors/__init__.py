"""Fitted predictors as models of the MLflow model registry."""
