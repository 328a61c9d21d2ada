"""Checks that the options of several engines share."""

from __future__ import annotations

import importlib.util
from typing import Any

from rlready.evaluators.checkpoints.folder import DTYPES
from rlready.registry.errors import ConfigError


def check_options(options: Any, **least: float) -> None:
    """Check the `dtype` of an engine's options, and that numbers are not below their least values.

    Raises:
        ConfigError: naming the first invalid option.
    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is not None and not value >= bound:
            raise ConfigError(f"--engine-option {name} is {value}", fix=f"Give {bound} or more")
    dtype = getattr(options, "dtype", "auto")
    if dtype not in DTYPES:
        raise ConfigError(
            f"--engine-option dtype is {dtype!r}", fix=f"Use one of {', '.join(DTYPES)}"
        )


def check_packages(engine: str, *packages: str, fix: str) -> None:
    """Check that the packages of an engine are installed; imports none of them.

    Raises:
        ConfigError: naming the missing packages.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the {engine} engine needs {' and '.join(missing)}, which is not installed", fix=fix
        )
