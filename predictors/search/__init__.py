"""Search of SFT recipes: spaces, proposals and the Optuna study."""
