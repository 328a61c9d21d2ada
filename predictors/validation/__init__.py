"""Scores of predictors on rows that they have not seen."""
