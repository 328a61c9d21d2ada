"""Reference answers that cannot be checked: reported, or left out with their problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.verification.verifier import Verifier, list_golds
from rlready.registry.errors import BenchmarkError
from rlready.workflow.evaluate.inputs import EvaluationInputs, check_names


def with_readable_golds(
    inputs: EvaluationInputs, verifier: Verifier, warn: Callable[[str], None]
) -> EvaluationInputs:
    """Return the inputs with reference answers that can all be checked.

    Without `--skip-unreadable-golds` the inputs stay the same. With it, a benchmark that loses an
    answer gets a name and a digest of its own.

    Args:
        inputs: of the evaluation.
        verifier: checks each reference answer against itself.
        warn: called with what is left out.

    Raises:
        BenchmarkError: if a reference answer cannot be checked and may not be left out, or no
            problem of a benchmark would be left.
        ConfigError: if a benchmark would get the name of another.
    """
    if not inputs.config.skip_unreadable_golds:
        for benchmark in inputs.benchmarks:
            try:
                verifier.check_golds(benchmark.problems)
            except BenchmarkError as error:
                what = f"benchmark {benchmark.name}: {error.what}"
                raise BenchmarkError(what, why=error.why, fix=error.fix) from error
        return inputs
    readable = tuple(_readable(benchmark, verifier, warn) for benchmark in inputs.benchmarks)
    heldout = [heldout_set.name for heldout_set in inputs.heldout_sets]
    check_names([benchmark.name for benchmark in readable], heldout, inputs.suite_name)
    return dataclasses.replace(inputs, benchmarks=readable)


def _readable(benchmark: Benchmark, verifier: Verifier, warn: Callable[[str], None]) -> Benchmark:
    unreadable = verifier.unreadable_golds(benchmark.problems)
    if not unreadable:
        return benchmark
    readable = benchmark.without_golds(set(unreadable))
    n_lost = len(benchmark.problems) - len(readable.problems)
    warn(
        f"{benchmark.name}: {len(unreadable)} reference answers cannot be checked and are left "
        f"out, and with them {n_lost} of {len(benchmark.problems)} problems: "
        f"{list_golds(unreadable)}. What is measured on the others is named {readable.name}"
    )
    return readable
