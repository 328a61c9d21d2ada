"""The checker's processes: order, reuse, hangs, deaths, threads, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from rlready.evaluators.process_pool import Pool, TaskFailure
from rlready.evaluators.verification.verifier import CheckedAnswer, Verifier, checker_version
from rlready.registry.errors import ConfigError, EvaluationError
from rlready.registry.records import Problem, Verdict

HANGS = r"\int_0^{\infty} \frac{\sin(x^3)\ln(x)}{1+x^7} dx"

# A child that echoes, and hangs, dies or asks for a successor on request.
CHILD = textwrap.dedent(
    """
    import json, os, sys, time
    def say(*message): print(json.dumps(message), flush=True)
    say("ready")
    for line in sys.stdin:
        for index, what in json.loads(line):
            if what == "hang": time.sleep(600)
            if what == "die": os._exit(3)
            say(index, os.getpid() if what == "pid" else what, what == "restart")
            if what == "restart": sys.exit()
    """
)


def _pool(**settings: float) -> Pool:
    return Pool(
        ["-c", CHILD],
        environment={},
        n_workers=int(settings.get("n_workers", 1)),
        timeout_s=settings.get("timeout_s", 30.0),
    )


def test_every_task_has_its_result_and_only_the_guilty_fail() -> None:
    tasks = [[str(i)] for i in range(70)]
    tasks[3], tasks[4], tasks[20], tasks[69] = ["die"], ["hang"], ["restart"], ["die"]
    pool = _pool(n_workers=2, timeout_s=1.0)
    try:
        results = dict(pool.run(tasks))
    finally:
        pool.close()
    assert sorted(results) == list(range(70))
    failed = {index for index, result in results.items() if isinstance(result, TaskFailure)}
    assert failed == {3, 4, 69}
    assert all(results[i] == tasks[i][0] for i in set(results) - failed)


def test_a_few_tasks_start_one_child_and_later_calls_reuse_it() -> None:
    pool = _pool(n_workers=8)
    try:
        pids = {pid for _ in range(3) for _, pid in pool.run([["pid"]] * 40)}
    finally:
        pool.close()
    assert len(pids) == 1


def test_a_child_that_was_ended_while_idle_costs_no_task() -> None:
    pool = _pool()
    try:
        ((_, pid),) = pool.run([["pid"]])
        os.kill(pid, signal.SIGKILL)
        ((_, other),) = pool.run([["pid"]])
    finally:
        pool.close()
    assert isinstance(other, int)
    assert other != pid


def test_a_child_that_cannot_start_is_an_error_with_its_last_words() -> None:
    pool = Pool(
        ["-c", "raise SystemExit('no such thing')"], environment={}, n_workers=1, timeout_s=1
    )
    with pytest.raises(EvaluationError, match="no such thing"):
        list(pool.run([["x"]]))
    pool.close()


def test_verdicts_come_in_order_with_what_was_judged() -> None:
    items = [
        (("x^2-1",), r"so \boxed{(x-1)(x+1)}"),
        (("5",), "no box"),
        (("5",), r"\boxed{}"),
        (("3", "5"), r"\boxed{5.0}"),
        (("5",), r"\boxed{6}"),
        (("x^2-1",), r"\boxed{x^2+1}"),
    ]
    with Verifier(n_workers=1) as verifier:
        progress: list[int] = []
        first = verifier.check(items, progress.append)
        again = verifier.check(items)
    assert first == again
    assert sum(progress) == len(items)
    assert first == [
        CheckedAnswer(Verdict.CORRECT, "(x-1)(x+1)"),
        CheckedAnswer(Verdict.UNPARSED, None),
        CheckedAnswer(Verdict.UNPARSED, None),
        CheckedAnswer(Verdict.CORRECT, "5.0"),
        CheckedAnswer(Verdict.INCORRECT, "6"),
        CheckedAnswer(Verdict.INCORRECT, "x^2+1"),
    ]


def test_plain_numbers_need_no_process() -> None:
    with Verifier() as verifier:
        checked = verifier.check([(("1000",), r"\boxed{1\,000}"), (("7",), r"\boxed{8}")])
        assert verifier._pool._children == []
    assert [found.verdict for found in checked] == [Verdict.CORRECT, Verdict.INCORRECT]


def test_an_answer_out_of_time_is_unscored_and_its_neighbours_are_not() -> None:
    items = [(("a+1",), rf"\boxed{{{answer}}}") for answer in ("1+a", HANGS, "a+1+0", "a+2")]
    with Verifier(n_workers=1, timeout_s=1.0) as verifier:
        checked = verifier.check(items)
    assert [found.verdict for found in checked] == ["correct", "unscored", "correct", "incorrect"]


def test_an_answer_over_a_cap_is_wrong_and_a_gold_over_it_cannot_be_judged() -> None:
    huge = "1+" * 2_000 + "1"
    tower = "9^{9^{9^{9}}}"
    items = [
        (("5",), rf"\boxed{{{huge}}}"),
        ((huge,), r"\boxed{5}"),
        ((huge,), rf"\boxed{{{huge}}}"),
        (("5",), rf"\boxed{{{tower}}}"),
        ((tower,), r"\boxed{8^{8^{8^{8}}}}"),
        ((tower,), rf"\boxed{{{tower}}}"),
    ]
    with Verifier(n_workers=1) as verifier:
        checked = verifier.check(items)
    expected = ["incorrect", "unscored", "correct", "incorrect", "unscored", "correct"]
    assert [found.verdict for found in checked] == expected
    assert checked[0].extracted is not None
    assert len(checked[0].extracted) <= 500


def test_golds_that_cannot_be_checked_are_named() -> None:
    def problem(name: str, *golds: str) -> Problem:
        return Problem(id=name, text="?", answers=golds)

    good = [problem("a/0", r"\frac{1}{2}", "8.7e8"), problem("a/1", r"\text{no real solution}")]
    with Verifier(n_workers=1) as verifier:
        assert verifier.unreadable_golds(good) == []
        bad = [problem("b/7", "$$"), problem("b/9", "9^{9^{9^{9}}}")]
        assert [name for name, _ in verifier.unreadable_golds([*good, *bad])] == ["b/7", "b/9"]


def test_it_works_from_a_thread_and_disturbs_neither_environment_nor_alarm() -> None:
    before = dict(os.environ)
    found: list[CheckedAnswer] = []

    def check() -> None:
        with Verifier(n_workers=1) as verifier:
            found.extend(verifier.check([(("2x",), r"\boxed{x+x}")]))

    thread = threading.Thread(target=check)
    thread.start()
    thread.join()
    assert [c.verdict for c in found] == [Verdict.CORRECT]
    assert dict(os.environ) == before
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


SCRIPT = textwrap.dedent(
    r"""
    # No guard for __main__: a child that imported this file would start children of its own.
    import os, sys
    from rlready.evaluators.verification.verifier import Verifier
    verifier = Verifier(n_workers=1)
    found = verifier.check([(("2x",), r"\boxed{x+x}")])
    child = verifier._pool._children[0].process.pid
    print(found[0].verdict, child, "math_verify" in sys.modules, "sympy" in sys.modules, flush=True)
    os.kill(os.getpid(), 9)
    """
)


def test_a_script_without_a_main_guard_works_and_its_children_die_with_it(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    (tmp_path / "json.py").write_text("raise SystemExit('not the json that was meant')")
    done = subprocess.run(
        [sys.executable, "-P", str(path)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    verdict, child, *imported = done.stdout.split()
    assert done.stderr == ""
    assert verdict == "correct"
    assert imported == ["False", "False"]
    assert _ends(int(child))


def _ends(pid: int) -> bool:
    """Whether a process that is no child of ours ends within ten seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    ended, _, _ = select.select([handle], [], [], 10)
    os.close(handle)
    return bool(ended)


def test_too_little_memory_to_start_is_said() -> None:
    with pytest.raises(EvaluationError, match="memory limit"), Verifier(memory_mb=20) as verifier:
        verifier.check([(("2x",), r"\boxed{x+x}")])


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(ConfigError, match="timeout"):
        Verifier(timeout_s=0)


def test_the_version_names_everything_that_decides() -> None:
    for name in ("rules", "math-verify", "sympy", "latex2sympy2", "antlr4"):
        assert name in checker_version()
