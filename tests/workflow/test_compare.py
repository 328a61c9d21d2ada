"""`rlready compare`: paired where the samples are on this disk, honest where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, check_page
from click.testing import CliRunner, Result

from rlready.evaluators.heldout.loss import ExampleLoss
from rlready.evaluators.heldout.loss_files import Losses, losses_path, write_losses
from rlready.evaluators.metrics.pass_at_k import ProblemCounts
from rlready.evaluators.metrics.proxies import macro_mean
from rlready.evaluators.sampling.sample_files import SampleFolder
from rlready.evaluators.verification.verifier import CheckedAnswer
from rlready.registry.digest import digest
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import (
    Checkpoint,
    Evaluation,
    Protocol,
    Proxy,
    Recipe,
    Sample,
    Verdict,
)
from rlready.workflow.cli.main import main

PROTOCOL = Protocol(prompt_template="{problem}", max_tokens=64)
DIGEST, SET_DIGEST = digest("toy"), digest("val")
HOSTILE = '</pre><script>fetch("http://evil.example")</script>\x1b[31m{{ 7 * 7 }}'
N = 4
Compare = Callable[..., Result]


def checkpoint(name: str, **recipe: Any) -> Checkpoint:
    return Checkpoint(
        name=name,
        uri=f"file:///weights/{name}",
        fingerprint=(name.encode().hex() * 8)[:32],
        recipe=Recipe.from_dict(recipe),
    )


def proxy(name: str, value: float, **changes: Any) -> Proxy:
    values: dict[str, Any] = {
        "se": 0.05,
        "unit": "probability",
        "benchmark": "toy",
        "benchmark_digest": DIGEST,
        "protocol_digest": PROTOCOL.digest,
        "n_problems": 4,
        "n_samples": 16,
        "evaluator_version": "1",
    }
    return Proxy(name=name, value=value, **{**values, **changes})


def loss_proxy(value: float) -> Proxy:
    return proxy(
        "heldout_nll",
        value,
        unit="nats/token",
        benchmark="val",
        benchmark_digest=SET_DIGEST,
        protocol_digest=None,
    )


def write_samples(root: Path, made: Checkpoint, n_correct: dict[str, int]) -> None:
    folder = SampleFolder(root / made.id / f"{DIGEST}-{PROTOCOL.draws_digest}", list(n_correct))
    with folder.lock():
        folder.describe({"protocol": PROTOCOL.to_dict()})
        folder.add(
            [
                Sample(
                    problem_id=problem,
                    sample_index=i,
                    seed=i,
                    text=f"{HOSTILE} {made.name} {problem} {i}",
                    n_tokens=3,
                    finish_reason="stop",
                )
                for problem in n_correct
                for i in range(N)
            ]
        )
        for part, rows in list(folder.unjudged("v1")):
            seen: dict[str, int] = {}
            answers = []
            for problem, _ in rows:
                seen[problem] = seen.get(problem, 0) + 1
                is_correct = seen[problem] <= n_correct[problem]
                verdict = Verdict.CORRECT if is_correct else Verdict.INCORRECT
                answers.append(CheckedAnswer(verdict, "7"))
            folder.judge(part, {"boxed": answers}, "v1")
        folder.write_counts([ProblemCounts(problem_id=p, n=N, c=c) for p, c in n_correct.items()])


def write_loss(root: Path, made: Checkpoint, sums: list[float]) -> float:
    examples = tuple(
        ExampleLoss(id=f"e{i}", nll_sum=nll, n_tokens=10, n_bytes=30) for i, nll in enumerate(sums)
    )
    losses = Losses(
        benchmark_digest=SET_DIGEST,
        examples=examples,
        n_truncated=0,
        n_skipped=0,
        n_turn_bytes=30 * len(sums),
        n_cut_bytes=0,
    )
    write_losses(losses_path(root / made.id, SET_DIGEST, "t", None), losses)
    return sum(sums) / (10 * len(sums))


@pytest.fixture
def compare(tmp_path: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """The command in a folder with two checkpoints that answered the same four problems."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = MlflowStore(sqlite_uri)
    for name, correct, sums, recipe in (
        ("first", {"a": 4, "b": 0, "c": 2, "d": 1}, [5.0, 6.0], {"epochs": 1, "seed": 3}),
        ("second", {"a": 0, "b": 4, "c": 3, "d": 1}, [4.0, 8.0], {"epochs": 4, "seed": 3}),
    ):
        made = checkpoint(name, **recipe)
        write_samples(tmp_path / "samples", made, correct)
        pass_at_1 = proxy("pass_at_1", sum(correct.values()) / 16)
        proxies = (pass_at_1, loss_proxy(write_loss(tmp_path / "samples", made, sums)))
        store.put_evaluation(Evaluation(checkpoint=made, proxies=proxies))
    return lambda *flags: CliRunner().invoke(
        main, ["compare", *map(str, flags), "--tracking-uri", sqlite_uri]
    )


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout)["comparisons"][0]
    return values


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return result.stderr


def test_differences_are_paired_by_problem_and_example(compare: Compare) -> None:
    values = told(compare("first", "second", "--json"))
    (toy,) = values["benchmarks"]
    assert toy["metrics"]["pass_at_1"]["value"] == pytest.approx(1 / 16)
    assert toy["metrics"]["pass_at_1"]["is_paired"]
    assert not toy["metrics"]["pass_at_1"]["is_clear"]
    assert [p["problem_id"] for p in toy["gained"]] == ["b", "c"]
    assert [p["problem_id"] for p in toy["lost"]] == ["a"]
    (val,) = values["losses"]
    assert val["difference"]["value"] == pytest.approx(0.05)
    assert [e["example_id"] for e in val["worse"]] == ["e1"]
    assert values["recipe"] == {"epochs": [1, 4]}
    assert values["notes"] == []


def test_a_sample_of_each_shows_what_was_gained(compare: Compare) -> None:
    (toy,) = told(compare("first", "second", "--json"))["benchmarks"]
    gained = toy["gained"][0]
    assert gained["text_a"]["verdict"] == "incorrect"
    assert gained["text_b"]["verdict"] == "correct"
    assert gained["text_b"]["text"].endswith("second b 0")


def test_without_samples_the_means_are_compared_and_the_reason_is_said(compare: Compare) -> None:
    values = told(compare("first", "second", "--json", "--samples-dir", "elsewhere"))
    (toy,) = values["benchmarks"]
    assert not toy["metrics"]["pass_at_1"]["is_paired"]
    assert toy["n_gained"] is None
    assert [note.partition(":")[0] for note in values["notes"]] == ["toy", "val"]
    assert "give --samples-dir" in values["notes"][0]


def test_the_mean_over_benchmarks_needs_no_samples_of_its_own(
    compare: Compare, sqlite_uri: str, tmp_path: Path
) -> None:
    """Its note asked for samples, which a mean never has."""
    store, two = MlflowStore(sqlite_uri), digest("two")
    for name, correct in (
        ("first", {"x": 1, "y": 2, "z": 0}),
        ("second", {"x": 3, "y": 2, "z": 1}),
    ):
        made = checkpoint(name, epochs={"first": 1, "second": 4}[name], seed=3)
        toy = proxy("pass_at_1", sum(correct.values()) / 12, benchmark="two", benchmark_digest=two)
        first = {"first": 7 / 16, "second": 8 / 16}[name]
        both = macro_mean("mean", [toy, proxy("pass_at_1", first)])
        folder = SampleFolder(tmp_path / "samples" / made.id / f"{two}-{PROTOCOL.draws_digest}", [])
        with folder.lock():
            folder.describe({"protocol": PROTOCOL.to_dict()})
            folder.write_counts([ProblemCounts(problem_id=p, n=N, c=c) for p, c in correct.items()])
        store.put_evaluation(Evaluation(checkpoint=made, proxies=(toy, *both)))
    values = told(compare("first", "second", "--json"))
    assert values["notes"] == []
    rows = {row["benchmark"]: row["metrics"]["pass_at_1"] for row in values["benchmarks"]}
    assert rows["mean"]["is_paired"]
    assert rows["mean"]["value"] == pytest.approx((rows["toy"]["value"] + rows["two"]["value"]) / 2)
    values = told(compare("first", "second", "--json", "--samples-dir", "elsewhere"))
    assert "mean: not paired, because its parts are not: toy, two" in values["notes"]


def test_a_damaged_count_file_is_not_used(compare: Compare, tmp_path: Path) -> None:
    (path,) = (tmp_path / "samples" / checkpoint("first").id).glob("*/counts.parquet")
    path.write_bytes(b"PAR1 no")
    (toy,) = told(compare("first", "second", "--json"))["benchmarks"]
    assert not toy["metrics"]["pass_at_1"]["is_paired"]


def test_other_contents_are_named_and_the_rest_is_compared(
    compare: Compare, sqlite_uri: str
) -> None:
    store = MlflowStore(sqlite_uri)
    third = checkpoint("third", epochs=1)
    other = proxy("pass_at_1", 0.5, benchmark_digest=digest("other"))
    store.put_evaluation(Evaluation(checkpoint=third, proxies=(other, loss_proxy(0.7))))
    values = told(compare("first", "third", "--json"))
    assert values["benchmarks"] == []
    assert len(values["losses"]) == 1
    assert any("toy: different contents" in note for note in values["notes"])


def test_other_protocols_are_told_apart_by_the_settings_that_differ(
    compare: Compare, sqlite_uri: str, tmp_path: Path
) -> None:
    store, third = MlflowStore(sqlite_uri), checkpoint("third", epochs=1)
    hot = replace(PROTOCOL, temperature=0.5, prompt_template="{problem}" + "!" * 500)
    other = proxy("pass_at_1", 0.5, protocol_digest=hot.digest)
    store.put_evaluation(Evaluation(checkpoint=third, proxies=(other, loss_proxy(0.7))))
    (note,) = [n for n in told(compare("first", "third", "--json"))["notes"] if "toy" in n]
    assert hot.digest in note  # without its samples nothing names the settings
    folder = tmp_path / "samples" / third.id / f"{DIGEST}-{hot.draws_digest}"
    folder.mkdir(parents=True)
    (folder / "about.json").write_text(json.dumps({"protocol": hot.to_dict()}))
    values = told(compare("first", "third", "--json"))
    (note,) = [n for n in values["notes"] if "toy" in n]
    assert f"temperature {PROTOCOL.temperature!r} and 0.5" in note
    assert len(note) < 300
    assert len(values["losses"]) == 1


class Tags(HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_escapes_what_models_wrote(compare: Compare, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert compare("first", "second", "--out", page).exit_code == 0
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert "script" not in tags.tags
    assert tags.addresses == []
    assert "&lt;script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "\x1b" not in text


def test_the_page_holds_in_a_browser(compare: Compare, tmp_path: Path, browser: Browser) -> None:
    page = tmp_path / "page.html"
    assert compare("first", "second", "--out", page).exit_code == 0
    check_page(browser, page)


def test_the_terminal_shows_verdict_and_interval(compare: Compare) -> None:
    result = compare("first", "second")
    assert result.exit_code == 0
    assert "+0.062 ?" in result.stdout
    assert "the loss rose most" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (["first"], "1 checkpoints"),
        (["first", "second", "first", "second"], "4 checkpoints"),
        (["first", "first"], "named twice"),
        (["first", "nobody"], "nobody"),
    ],
)
def test_wrong_checkpoints_are_refused(
    compare: Compare, references: list[str], message: str
) -> None:
    assert message in refused(compare(*references))


def test_a_page_that_cannot_be_written_is_refused(compare: Compare, tmp_path: Path) -> None:
    assert "cannot write" in refused(compare("first", "second", "--out", tmp_path / "no" / "x"))
