"""The steps of `search`: trials are asked for, trained, evaluated and told."""
