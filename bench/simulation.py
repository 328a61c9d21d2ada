"""Registries made up by a known law, on which claims about predictors can be checked.

In group g (a base model x SFT source x RL recipe) checkpoint i has the true post-RL score

    m_gi = 60 + u_g + w_gi        u_g ~ N(0, group_sd^2), w_gi ~ N(0, within_sd^2)   (points)

and its outcome is y_gi = m_gi + N(0, rl_noise^2): one RL run. A proxy k sees the checkpoint's
standing in its group, a difference of levels between groups that says nothing about the outcome's
(another base model, another held-out set), a part of its own, and noise of measurement that its
standard error tells:

    z_gik = a_k w_gi / within_sd + b_gk + sqrt(1 - a_k^2) s_gik + N(0, noise_k^2)

with a_k the proxy's validity inside a group, b_gk ~ N(0, shift^2). Where proxies were measured on
benchmarks that all groups share, their levels do tell of the outcome's: with `level` above 0, b_gk
is level * a_k * u_g / within_sd + sqrt(1 - level^2) * N(0, shift^2). z is turned into the proxy's
unit by a monotone link (a loss is exp, pass@k a logistic curve), and the error with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlready.predictors.training_table import FloatArray, Kind, TrainingTable, training_table


@dataclass(frozen=True, kw_only=True)
class SimulatedProxy:
    """A proxy: its validity `a` inside a group, its noise of measurement (in units of z)."""

    name: str
    kind: Kind
    validity: float
    noise: float


PROXIES = (
    SimulatedProxy(name="pass_at_1@sim", kind=Kind.PROBABILITY, validity=0.55, noise=0.15),
    SimulatedProxy(name="pass_at_16@sim", kind=Kind.PROBABILITY, validity=0.75, noise=0.25),
    SimulatedProxy(name="pass_at_64@sim", kind=Kind.PROBABILITY, validity=0.85, noise=0.35),
    SimulatedProxy(name="heldout_nll@sim", kind=Kind.LOSS, validity=-0.80, noise=0.15),
    SimulatedProxy(name="signal_share_8@sim", kind=Kind.PROBABILITY, validity=0.70, noise=0.30),
    SimulatedProxy(name="token_entropy@sim", kind=Kind.PLAIN, validity=0.30, noise=0.10),
    SimulatedProxy(name="response_tokens@sim", kind=Kind.COUNT, validity=0.0, noise=0.10),
    SimulatedProxy(name="self_bleu@sim", kind=Kind.PLAIN, validity=0.0, noise=0.10),
)
"""Eight proxies like those of the paper's table: two informative kinds, one weak, two of noise."""


@dataclass(frozen=True, kw_only=True)
class World:
    """The law of a simulated registry; the defaults are those of the claims in `bench/`."""

    group_sd: float = 6.0
    within_sd: float = 3.0
    rl_noise: float = 0.8
    shift: float = 1.0
    level: float = 0.0
    proxies: tuple[SimulatedProxy, ...] = PROXIES


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulated:
    """A registry and what nobody knows of a real one.

    Args:
        table: what a user sees.
        truth: (n,) true scores m.
    """

    table: TrainingTable
    truth: FloatArray


def simulate(
    n_groups: int, n_rows: int, rng: np.random.Generator, world: World | None = None
) -> Simulated:
    """A registry of `n_groups` groups with `n_rows` checkpoints each."""
    import pandas as pd

    world = world or World()
    group_of = np.repeat(np.arange(n_groups), n_rows)
    within = world.within_sd * rng.standard_normal(len(group_of))
    level = world.group_sd * rng.standard_normal(n_groups)[group_of]
    truth = 60.0 + level + within
    columns: dict[str, FloatArray] = {}
    for proxy in world.proxies:
        latent = proxy.validity * within / world.within_sd
        latent = latent + world.level * proxy.validity * level / world.within_sd
        unlike = np.sqrt(1.0 - world.level**2) * world.shift
        latent = latent + unlike * rng.standard_normal(n_groups)[group_of]
        own = np.sqrt(1.0 - proxy.validity**2) * rng.standard_normal(len(group_of))
        z = latent + own + proxy.noise * rng.standard_normal(len(group_of))
        columns[proxy.name], columns[f"{proxy.name}_se"] = _in_unit(z, proxy)
    columns["outcome"] = truth + world.rl_noise * rng.standard_normal(len(group_of))
    columns["outcome_se"] = np.full(len(group_of), world.rl_noise)
    frame = pd.DataFrame(columns)
    frame["source"] = [f"g{group:02d}" for group in group_of]
    frame.index = pd.Index([f"g{g:02d}/{i:03d}" for i, g in enumerate(group_of)])
    table = training_table(
        frame,
        target="outcome",
        features=[proxy.name for proxy in world.proxies],
        errors={proxy.name: f"{proxy.name}_se" for proxy in world.proxies},
        target_error="outcome_se",
        groups=["source"],
    )
    return Simulated(table=table, truth=truth)


def _in_unit(z: FloatArray, proxy: SimulatedProxy) -> tuple[FloatArray, FloatArray]:
    """The proxy in its unit, and its standard error (the noise times the link's slope)."""
    if proxy.kind is Kind.PROBABILITY:
        share = 1.0 / (1.0 + np.exp(-0.6 * z))
        return share, 0.6 * share * (1.0 - share) * proxy.noise
    if proxy.kind is Kind.LOSS:
        loss = 0.6 * np.exp(0.15 * z)
        return loss, 0.15 * loss * proxy.noise
    if proxy.kind is Kind.COUNT:
        count = 800.0 * np.exp(0.3 * z)
        return count, 0.3 * count * proxy.noise
    return z, np.full(len(z), proxy.noise)
