"""`rlready report`: one page with the verdict, for people who do not read terminals."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from backends import client_of, copy_database
from browser import Browser, Tab, axe, check_page, faults, shown_rows
from click.testing import CliRunner, Result
from store_child import a_proxy
from testbed_registry import TARGET, checkpoint, put_checkpoints, put_outcomes, shuffled

from rlready.predictors.predictive import Predictive
from rlready.registry.digest import digest
from rlready.registry.mlflow_store.pages.descriptions import NOTE, escaped
from rlready.registry.mlflow_store.store import MlflowStore
from rlready.registry.records import Checkpoint, Evaluation, Recipe
from rlready.workflow.cli.main import main
from rlready.workflow.report.evidence import rivals_of, shown_proxy
from rlready.workflow.report.page import page
from rlready.workflow.report.parts import Cell, Column, Interval, Report, Section, Table
from rlready.workflow.report.plot import shortened, ticks

pytestmark = pytest.mark.slow

HOSTILE = "=<script>fetch('http://evil.example')</script>\x1b[31m{{ 7 * 7 }}"
N_CHECKPOINTS, N_OUTCOMES = 20, 13
RENDERED = 2.0
"""Seconds for a page with 300 checkpoints."""
LARGEST = 3_000_000

Run = Callable[..., Result]


def put(uri: str, n_outcomes: int, *, is_noise: bool = False) -> None:
    frame, store = shuffled()[:N_CHECKPOINTS], MlflowStore(uri)
    put_checkpoints(store, frame)
    like = store.find(checkpoint(frame.iloc[-1]).id)
    named = Checkpoint(
        name=HOSTILE,
        uri="file:///x",
        fingerprint=digest("hostile"),
        recipe=like.checkpoint.recipe,
    )
    store.put_evaluation(Evaluation(checkpoint=named, proxies=like.proxies))
    if is_noise:
        value = "value_at_budget/60steps@world_after"
        frame[value] = np.random.default_rng(3).uniform(0.4, 0.6, len(frame))
    put_outcomes(store, frame[:n_outcomes], budgets=(60,))


@pytest.fixture(scope="module")
def fitted(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of a registry with a predictor and seven checkpoints without an outcome."""
    return registry(empty_database, tmp_path_factory.mktemp("fitted"), N_OUTCOMES)


def registry(empty_database: Path, folder: Path, n_outcomes: int, **changes: Any) -> str:
    copy_database(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        put(uri, n_outcomes, **changes)
        if n_outcomes >= 5:
            result = CliRunner().invoke(main, ["fit", "--tracking-uri", uri, "--json"])
            assert result.exit_code == 0, result.output
    return uri


@pytest.fixture
def run(fitted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(fitted)


def runner(uri: str) -> Run:
    return lambda *flags: CliRunner().invoke(
        main, ["report", *map(str, flags), "--tracking-uri", uri]
    )


def told(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


class Read(HTMLParser):
    """Tags, addresses, figures and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "svg" and dict(attrs).get("role") == "img":
            self.pictures.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path | str = "report.html") -> Read:
    return Read(Path(path).read_text(encoding="utf-8"))


def test_the_verdict_is_one_sentence_to_act_on(run: Run) -> None:
    values = told(run("--json", "--rl-runs", 2, "--no-log"))
    verdict, chosen = values["verdict"], values["chosen"]
    assert len(chosen) == 2
    assert verdict.startswith(f"Train {chosen[0]} and {chosen[1]}: expected to lose ")
    assert "points against the best of 8 candidates and the best so far" in verdict
    assert "choosing by pass@1 on world would lose" in verdict
    assert f"judged on {N_OUTCOMES} left-out outcomes" in verdict
    assert all(name in verdict for name in values["not_told_apart"][:2])
    page_text = read().text
    shown = verdict.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert " ".join(shown.split()) in page_text
    assert page_text.index("Train these") < page_text.index("Ranking")


def test_the_terminal_ends_with_the_verdict(run: Run) -> None:
    result = run("--no-log")
    assert result.exit_code == 0, result.output
    assert "Train " in result.stdout.partition("page: report.html")[2]


def test_every_section_has_its_content(run: Run) -> None:
    told(run("--json", "--no-log"))
    made = read()
    for title in (
        "Ranking",
        "Before RL against after RL",
        "pass@k before RL",
        "What each proxy was worth",
        "What each RL run is worth",
        "Predictions that were frozen before the outcomes",
        "Data, versions and protocol",
    ):
        assert title in made.text
    assert len(made.pictures) == 6
    assert all(len(picture["aria-label"] or "") > 40 for picture in made.pictures)
    assert "chance to end about as well as the best recorded outcome" in made.text


def test_what_others_wrote_stays_text(run: Run) -> None:
    told(run("--json", "--no-log"))
    made = read()
    assert made.tags.count("script") == 1
    assert "<script>fetch('http://evil.example')</script>" in made.text
    assert "{{ 7 * 7 }}" in made.text
    assert "\x1b" not in Path("report.html").read_text(encoding="utf-8")


def test_the_page_is_small_and_names_no_address_outside(run: Run) -> None:
    told(run("--json", "--no-log"))
    text = Path("report.html").read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    made = read()
    assert {each.partition(",")[0][:1] for each in made.addresses} == {"#", "d"}
    assert all(each.startswith(("#", "data:text/csv")) for each in made.addresses)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "default-src 'none'" in text


def test_each_table_is_there_as_csv(run: Run) -> None:
    told(run("--json", "--no-log"))
    files = [a for a in read().addresses if a.startswith("data:")]
    tables = [list(csv.DictReader(io.StringIO(unquote(a.partition(",")[2])))) for a in files]
    assert len(tables) == read().tags.count("table")
    ranking = tables[0]
    assert len(ranking) == N_CHECKPOINTS + 1
    assert all(float(r["interval_low"]) <= float(r["predicted"]) for r in ranking)
    # A spreadsheet would run a text that begins with = as a formula.
    assert f"'{HOSTILE}" in [row["checkpoint"] for row in ranking]


def test_the_page_is_logged_to_the_run_of_the_fit_and_linked(run: Run, fitted: str) -> None:
    address = told(run("--json"))["logged"]
    client = client_of(fitted)
    model = client.get_registered_model("grpo-predictor")
    assert f"[report.html]({address})" in model.description
    run_id = address.split("/")[4]
    assert "report.html" in [each.path for each in client.list_artifacts(run_id)]
    client.update_registered_model("grpo-predictor", description="ours")
    told(run("--json"))
    assert client.get_registered_model("grpo-predictor").description == "ours"
    client.update_registered_model("grpo-predictor", description=model.description)


def test_the_run_of_the_fit_shows_the_verdict_and_the_figures(run: Run, fitted: str) -> None:
    """The fit itself wrote them: the fixture made no report."""
    client = client_of(fitted)
    run_id = client.get_model_version_by_alias("grpo-predictor", "champion").run_id
    page = client.get_run(run_id).data.tags[NOTE]
    assert page.startswith("**Train ")
    for name in ("report_figures/regret.png", "figures/predicted_and_true.png"):
        assert page.count(f"](get-artifact?path={name}&run_uuid={run_id})") == 1
    assert "Fitted on 13 checkpoints" in page
    said = told(run("--json"))
    assert client.get_run(run_id).data.tags[NOTE] == page
    assert page.startswith(f"**{escaped(said['verdict'])}**")
    told(run("--json", "--rl-runs", 1))
    changed = client.get_run(run_id).data.tags[NOTE]
    assert changed != page
    assert changed.count("**The fit**") == 1
    told(run("--json"))
    assert client.get_run(run_id).data.tags[NOTE] == page
    client.set_tag(run_id, NOTE, "ours")
    told(run("--json"))
    assert client.get_run(run_id).data.tags[NOTE] == "ours"
    client.set_tag(run_id, NOTE, page)


def test_a_registry_that_cannot_be_written_still_gives_the_page(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def refuse(*_: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(MlflowClient, "log_artifacts", refuse)
    result = run()
    assert result.exit_code == 0, result.output
    assert "could not be logged to MLflow" in result.stdout
    assert Path("report.html").exists()


def test_an_output_that_cannot_be_written_is_a_mistake_of_the_user(run: Run) -> None:
    assert "cannot write" in refused(run("--out", "nowhere/report.html"))
    assert "Give another file to --out" in refused(run("--out", "."))


def test_kinds_beside_a_fitted_predictor_are_refused(run: Run) -> None:
    assert "--kind is given" in refused(run("--kind", "pass_at_1@world=plain"))
    assert not Path("report.html").exists()


def test_frozen_predictions_are_judged(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = registry(empty_database, tmp_path, N_OUTCOMES)
    ranked = CliRunner().invoke(main, ["rank", "--tracking-uri", uri, "--json"])
    assert ranked.exit_code == 0, ranked.output
    put_outcomes(MlflowStore(uri), shuffled()[N_OUTCOMES:N_CHECKPOINTS], budgets=(60,))
    told(runner(uri)("--json", "--no-log"))
    assert "Judged on 7 predictions made before the outcome" in read().text


def test_without_an_outcome_it_shows_the_first_day_and_what_is_missing(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = registry(empty_database, tmp_path, 0)
    values = told(runner(uri)("--json"))
    assert values["logged"] is None
    assert values["basis"] == "public outcomes"
    assert "this rests on public outcomes and none of your own" in values["verdict"]
    assert any("rlready outcome" in text for text in values["missing"])
    made = read()
    assert "What is missing" in made.text
    assert "code" in made.tags
    assert "3 outcomes are needed to judge the proxies, and 0 are recorded" in made.text
    assert made.tags.count("tr") > N_CHECKPOINTS


def test_a_few_outcomes_count_on_the_first_day(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = told(runner(registry(empty_database, tmp_path, 3))("--json"))
    assert "public outcomes and 3 of your own" in values["verdict"]
    assert "points against" in values["verdict"]


def test_a_predictor_of_few_outcomes_says_that_they_judge_little(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = registry(empty_database, tmp_path, 6)
    values = told(runner(uri)("--json", "--no-log"))
    assert "not judged, as 6 outcomes are too few to leave some out" in values["verdict"]
    assert any("No plan was checked on recorded outcomes" in text for text in values["missing"])
    assert "public outcomes weigh" in read().text or "no signal yet" in read().text


def test_proxies_without_a_signal_recommend_nothing(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = registry(empty_database, tmp_path, N_OUTCOMES, is_noise=True)
    values = told(runner(uri)("--json", "--no-log"))
    assert values["verdict"].startswith("No checkpoint can be recommended: ")
    assert values["chosen"] == []
    assert "No order is claimed" in read().text


def test_losses_over_sft_steps_have_regimes(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store, losses = MlflowStore(sqlite_uri), {100: 1.2, 200: 1.0, 300: 1.01, 400: 1.05, 500: 1.2}
    for step, loss in losses.items():
        recipe = Recipe(base_model="m", epochs=1.0)
        name = f"run-{step}"
        point = Checkpoint(
            name=name, uri="file:///x", fingerprint=digest(name), step=step, recipe=recipe
        )
        proxies = (
            a_proxy(name="pass_at_1", value=0.3 + step / 2000),
            a_proxy(name="heldout_nll", value=loss, benchmark="val", unit="nats/token"),
        )
        store.put_evaluation(Evaluation(checkpoint=point, proxies=proxies))
    told(runner(sqlite_uri)("--json"))
    text = read().text
    assert "Loss over SFT steps" in text
    regimes = ("before its minimum", "minimum", "stable", "mild", "severe")
    assert f"Checkpoints: {', '.join(f'1 {name}' for name in regimes[:3])}" in text
    assert "1 mild overfitting, 1 severe overfitting" in text


SPACE = """
[recipe]
base_model = "m"
[sources.gsm8k]
[sources.numina]
"""


def search(*words: Any) -> None:
    result = CliRunner().invoke(main, ["search", *map(str, words)])
    assert result.exit_code == 0, result.output


def test_the_only_study_here_is_shown_and_an_unknown_one_is_refused_by_name(run: Run) -> None:
    Path("mix.toml").write_text(SPACE)
    search("ask", "--trials", 2, "--cold", "--space", "mix.toml", "--json")
    assert "study mix is not shown: study 'mix' has 0 finished" in run("--no-log").stdout
    for trial in range(2):
        search("tell", trial, "--value", 0.5 + trial / 10, "--space", "mix.toml")
    told(run("--json", "--no-log"))
    shown = read().text
    assert "Response surface of the recipe search" in shown
    assert "Best recipe so far: trial 1" in shown
    Path("report.html").unlink()
    assert "no study 'other' in sqlite:///search.db. Studies there: mix" in refused(
        run("--study", "other")
    )
    assert "It holds no study" in refused(run("--study", "mix", "--storage", "sqlite:///no.db"))
    assert not Path("no.db").exists()
    Path("mix.toml").unlink()
    assert "Give the TOML file as --space" in refused(run("--study", "mix"))
    assert not Path("report.html").exists()


def test_an_empty_registry_says_what_to_run_first(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "rlready evaluate" in refused(runner(sqlite_uri)())
    assert "rlready evaluate" in refused(runner(f"sqlite:///{tmp_path / 'none.db'}")())
    assert not Path("report.html").exists()


def test_one_checkpoint_alone_says_what_to_run_first(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = Checkpoint(name="alone", uri="file:///x", fingerprint=digest("alone"))
    MlflowStore(sqlite_uri).put_evaluation(
        Evaluation(checkpoint=named, proxies=(a_proxy(name="pass_at_1", value=0.3),))
    )
    assert "Evaluate another SFT checkpoint" in refused(runner(sqlite_uri)())


def big(n: int) -> Report:
    columns = [Column(title="checkpoint", key="checkpoint", is_number=False)]
    columns += [Column(title=f"c{i}", key=f"c{i}") for i in range(12)]
    bar = Interval(low=0.1, high=0.4, value=0.2, recorded=0.3)
    rows = [
        [
            Cell(value=f"checkpoint {i}", details=["a reason of about a hundred letters" * 3] * 6),
            Cell(value=0.1, interval=bar),
            *(Cell(value=0.1 * i, text=f"{0.1 * i:.2f}") for _ in range(11)),
        ]
        for i in range(n)
    ]
    tables = [Table(id=f"t{k}", caption="c", columns=columns, rows=rows) for k in range(4)]
    return Report(
        title="t",
        subtitle="",
        verdict="v",
        chosen={},
        remarks=[],
        missing=[],
        sections=[Section(id="ranking", title="s", tables=tables)],
        facts={},
    )


def test_three_hundred_checkpoints_make_a_page_in_time_and_size() -> None:
    report = big(300)
    page(report)  # the first call compiles nothing twice, but imports Jinja2
    start = time.process_time()
    text = page(report)
    assert time.process_time() - start < RENDERED
    assert len(text.encode()) < LARGEST


def test_rivals_are_those_that_may_well_be_better() -> None:
    predictive = Predictive(
        mean=np.array([0.7, 0.69, 0.5, 0.6]),
        row_sd=np.full(4, 0.02),
        group_sd=np.zeros(4),
        groups=np.full(4, "g"),
    )
    assert rivals_of(predictive, ["a", "b", "c", "d"], ["a"]) == ["b"]
    assert rivals_of(predictive, ["a", "b", "c", "d"], ["a", "b", "c", "d"]) == []


def test_ticks_are_round_numbers_inside_the_ends() -> None:
    assert ticks(0.13, 0.72) == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert ticks(3.0, 3.0) == [3.0]
    for low, high in ((0.0, 1e-7), (-5.0, 12000.0), (0.699, 0.7001)):
        found = ticks(low, high)
        assert low - 1e-12 <= found[0]
        assert found[-1] <= high + 1e-9
        assert len(found) <= 7


def test_names_are_shortened_and_proxies_are_spelled_out() -> None:
    assert shortened("a" * 10, 10) == "a" * 10
    assert len(shortened("a" * 60, 28)) == 28
    assert shown_proxy("pass_at_4@gsm8k") == "pass@4 on gsm8k"
    assert shown_proxy("heldout_nll@val") == "held-out loss on val"


@pytest.fixture
def made(run: Run, tmp_path: Path) -> Path:
    told(run("--json", "--no-log"))
    return tmp_path / "report.html"


def test_a_browser_has_nothing_to_complain_about_or_to_fetch(tab: Tab, made: Path) -> None:
    tab.open(made)
    assert tab.problems == []
    assert tab.requests == [made.resolve().as_uri()]
    assert tab.js("document.title") == "rlready: Which checkpoint gets the next RL runs?"


def test_no_other_script_than_its_own_can_run(tab: Tab, made: Path) -> None:
    evil = made.with_name("evil.html")
    text = made.read_text(encoding="utf-8")
    evil.write_text(text.replace("<main>", "<main><script>window.evil = 1</script>"))
    tab.open(evil)
    assert tab.js("typeof window.evil") == "undefined"


def test_tables_sort_by_keyboard(tab: Tab, made: Path) -> None:
    tab.open(made)
    heading = "document.querySelectorAll('#ranking-table thead th')[3]"
    values = (
        "Array.from(document.querySelectorAll('#ranking-table tbody tr')).map(row => "
        "row.cells[3].dataset.value).map(v => v === undefined ? null : Number(v))"
    )
    tab.js(f"{heading}.querySelector('button').focus()")
    tab.press("Enter")
    assert tab.js(f"{heading}.getAttribute('aria-sort')") == "ascending"
    numbers = tab.js(values)
    known = [v for v in numbers if v is not None]
    assert len(known) == N_OUTCOMES
    assert numbers == sorted(known) + [None] * (N_CHECKPOINTS + 1 - N_OUTCOMES)
    tab.press(" ")
    assert tab.js(f"{heading}.getAttribute('aria-sort')") == "descending"
    assert tab.js(values)[: len(known)] == sorted(known, reverse=True)
    assert tab.js("document.querySelectorAll('#ranking-table [aria-sort]').length") == 1


def test_tables_filter_and_open(tab: Tab, made: Path) -> None:
    tab.open(made)
    assert shown_rows(tab, "#ranking-table table") == 12
    tab.js("document.querySelector('#ranking-table .more').click()")
    assert shown_rows(tab, "#ranking-table table") == N_CHECKPOINTS + 1
    tab.js(
        "(() => { const i = document.querySelector('#ranking-table input'); i.value = 'EVIL'; "
        "i.dispatchEvent(new Event('input')); })()"
    )
    assert shown_rows(tab, "#ranking-table table") == 1
    count = tab.js("document.querySelector('#ranking-table output').textContent")
    assert count == f"1 of {N_CHECKPOINTS + 1} rows"


def test_the_page_holds_in_every_theme_and_width_for_every_reader(
    browser: Browser, made: Path
) -> None:
    check_page(browser, made)


def test_all_rows_are_printed(tab: Tab, made: Path) -> None:
    tab.open(made)
    assert shown_rows(tab, "#ranking-table table") == 12
    tab.send("Emulation.setEmulatedMedia", media="print")
    assert shown_rows(tab, "#ranking-table table") == N_CHECKPOINTS + 1
    assert tab.js("getComputedStyle(document.querySelector('nav')).display") == "none"


@pytest.mark.skipif(
    axe() is None, reason="axe-playwright-python, which carries axe-core, is missing"
)
def test_axe_core_finds_what_is_wrong(tab: Tab, tmp_path: Path) -> None:
    """Otherwise a page without faults would say nothing."""
    page = tmp_path / "bad.html"
    page.write_text("<html><body><img src='data:,'><a href='#x'></a></body></html>")
    tab.open(page)
    found = " ".join(faults(tab, axe() or ""))
    assert "image-alt" in found
    assert "link-name" in found


def test_the_target_is_named_on_the_page(made: Path) -> None:
    assert TARGET in read(made).text
