"""Search SFT recipes with the library: a space, Optuna, and the sampler of rlready.

A formula stands in for training and RL, so that the example takes seconds. It is best at a mixture
of 0.7 and 0.3 and a learning rate of 2e-5. In your project `train` starts your trainer. Then use
`rlready search`, which adds leases, restarts and the registry; this is the part inside it.

    python examples/search_recipes.py
"""

from __future__ import annotations

import math

import optuna

from rlready.predictors import SurrogateSampler, parse_space
from rlready.registry import Recipe

SPACE = {
    "recipe": {"base_model": "org/base"},
    "sources": {"gsm8k": {"floor": 0.05}, "numina": {}},
    "learning_rate": {"low": 1e-6, "high": 1e-4},
}
N_TRIALS = 16


def main() -> None:
    """Search with the sampler of rlready and at random, and print what both found."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = parse_space(SPACE)
    samplers = {
        "searched": SurrogateSampler(space, seed=0),
        "random": optuna.samplers.RandomSampler(seed=0),
    }
    for name, sampler in samplers.items():
        study = optuna.create_study(sampler=sampler, direction="maximize")
        for _ in range(N_TRIALS):
            trial = study.ask(fixed_distributions=space.distributions())
            recipe = space.recipe(space.from_parameters([trial.params]), 0)
            study.tell(trial, train(recipe))
        best = study.best_trial
        recipe = space.recipe(space.from_parameters([best.params]), 0)
        sources = ", ".join(f"{source} {weight:.2f}" for source, weight in recipe.sources.items())
        print(f"{name}: {best.value:.4f} with {sources}, rate {recipe.learning_rate:.1e}")


def train(recipe: Recipe) -> float:
    """Return the score after RL of a checkpoint trained by the recipe; 0.7 at best."""
    assert recipe.learning_rate is not None
    from_rate = math.log10(recipe.learning_rate / 2e-5)
    return 0.7 - (recipe.sources["gsm8k"] - 0.7) ** 2 - 0.05 * from_rate**2


if __name__ == "__main__":
    main()
