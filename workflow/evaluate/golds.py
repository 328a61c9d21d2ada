"""Reference answers that nothing can be compared with: named, and left out where asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from rlready.evaluators.benchmarks.problems import Benchmark
from rlready.evaluators.verification.verifier import Verifier, list_golds
from rlready.registry.errors import BenchmarkError
from rlready.workflow.evaluate.inputs import Plan, check_names


def with_readable_golds(plan: Plan, verifier: Verifier, warn: Callable[[str], None]) -> Plan:
    """The plan with reference answers that can all be checked.

    Without `--skip-unreadable-golds` it is the same plan. With it, a benchmark that loses one has a
    name and a digest of its own.

    Args:
        plan: of the evaluation.
        verifier: checks each reference answer against itself.
        warn: told what is left out.

    Raises:
        BenchmarkError: if a reference answer cannot be checked and was not to be left out, or no
            problem of a benchmark would be left.
        ConfigError: if a benchmark would get the name of another.
    """
    if not plan.config.skip_unreadable_golds:
        for benchmark in plan.benchmarks:
            try:
                verifier.check_golds(benchmark.problems)
            except BenchmarkError as error:
                what = f"benchmark {benchmark.name}: {error.what}"
                raise BenchmarkError(what, why=error.why, fix=error.fix) from error
        return plan
    readable = tuple(_readable(benchmark, verifier, warn) for benchmark in plan.benchmarks)
    heldout = [heldout_set.name for heldout_set in plan.heldout_sets]
    check_names([benchmark.name for benchmark in readable], heldout, plan.suite_name)
    return dataclasses.replace(plan, benchmarks=readable)


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
