"""Pages of checkpoints in MLflow: the verdict first, names of strangers as plain text."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from store_child import a_checkpoint, a_proxy, an_evaluation, an_outcome
from tag_examples import NOT_READY, NOW, UNDECIDED, a_tag

from rlready.registry.mlflow_store.pages.checkpoint_pages import put_pages
from rlready.registry.mlflow_store.pages.descriptions import (
    NOTE,
    SIGNATURE,
    checkpoint_description,
    escaped,
    picture,
    table_lines,
)
from rlready.registry.mlflow_store.record_tags import CHECKPOINT, TAG, printable, read_checkpoint
from rlready.registry.mlflow_store.store import MlflowStore

ALIAS = "models:/Qwen2.5-0.5B-sft@rl-ready"
HOSTILE = (
    "=<script>alert(1)</script> `x` *b* _i_ [l](http://evil.example) | & @me :smile: "
    "www.evil.example ![i](x.png) \\`y` ~~s~~ {{ 7 * 7 }}"
)
RANKED = {"target": an_outcome().key, "place": "rank 2 of 48"}


@pytest.fixture
def store(sqlite_uri: str) -> MlflowStore:
    """A registry with two checkpoints."""
    made = MlflowStore(sqlite_uri)
    for number in (1, 2):
        made.put_evaluation(an_evaluation(number))
    return made


def tags_of(store: MlflowStore, client: Any, number: int = 1) -> dict[str, str]:
    model = client.get_logged_model(store.find(a_checkpoint(number).id).model_id)
    return dict(model.tags)


def shown(markdown: str) -> str:
    """The HTML of a text, by a renderer with GitHub's extensions that MLflow 3.17 has too."""
    return str(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown))


def test_the_verdict_comes_first_then_proxies_then_outcomes(
    store: MlflowStore, client: Any
) -> None:
    assert tags_of(store, client)[NOTE].startswith("**Not ranked yet.** `rlready rank`")
    store.put_outcome(an_outcome(statistic="peak"))
    assert put_pages(store, [a_tag(1, **RANKED)], {a_checkpoint(1).id: ALIAS}) == 1
    page = tags_of(store, client)[NOTE]
    first = page.splitlines()[0]
    assert first.startswith("**READY for RL, rank 2 of 48: predicted 0.613 after RL, interval 0.55")
    assert escaped(ALIAS) in first
    parts = [a_tag().reasons[0], "Before RL", "pass\\_at\\_64", "After RL", "Recipe", SIGNATURE]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_the_facts_are_tags_that_the_list_of_models_can_show(
    store: MlflowStore, client: Any
) -> None:
    put_pages(store, [a_tag(1, **RANKED)], {a_checkpoint(1).id: ALIAS})
    tags = tags_of(store, client)
    assert (
        tags.items()
        >= {
            "rl_ready": "true",
            "rlready.place": "rank 2 of 48",
            "rlready.predicted": "0.613",
            "rlready.interval": "0.55 to 0.67 (90 %)",
            "rlready.alias": ALIAS,
        }.items()
    )
    # The record of the checkpoint itself has a similar key.
    assert read_checkpoint(tags) == a_checkpoint(1)
    assert CHECKPOINT in tags


def test_a_trained_checkpoint_shows_what_rl_reached(store: MlflowStore, client: Any) -> None:
    put_pages(store, [a_tag(1, **RANKED)])
    store.put_outcome(an_outcome(value=0.6))
    first = tags_of(store, client)[NOTE].splitlines()[0]
    assert first.startswith("**RL was run: 0.6000 ± 0.0200 reached, rank 2 of 48.** Without this")


def test_an_outcome_before_the_first_ranking_is_on_the_page(
    store: MlflowStore, client: Any
) -> None:
    store.put_outcome(an_outcome(value=0.6))
    first = tags_of(store, client)[NOTE].splitlines()[0]
    assert "is 0.6000 ± 0.0200.** **Not ranked yet.**" in first


@pytest.mark.parametrize(
    ("readiness", "words"),
    [(NOT_READY, "**NOT READY for RL"), (UNDECIDED, "**UNDECIDED whether RL is worth it")],
)
def test_the_verdict_in_words(store: MlflowStore, client: Any, readiness: Any, words: str) -> None:
    put_pages(store, [a_tag(1, readiness=readiness)])
    assert tags_of(store, client)[NOTE].startswith(words)


def test_the_same_ranking_a_day_later_changes_no_page(store: MlflowStore, client: Any) -> None:
    assert put_pages(store, [a_tag(1), a_tag(2)]) == 2
    before = tags_of(store, client)
    assert put_pages(store, [a_tag(1, made_at=NOW + timedelta(days=1)), a_tag(2)]) == 0
    assert tags_of(store, client) == before
    assert put_pages(store, [a_tag(1, predicted=0.62), a_tag(2)]) == 1


def test_a_killed_call_is_made_good_by_the_next(
    store: MlflowStore, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    original, calls = MlflowClient.set_logged_model_tags, []

    def deadly(self: Any, *args: Any) -> None:
        if calls:
            raise KeyboardInterrupt
        calls.append(args)
        original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_logged_model_tags", deadly)
        with pytest.raises(KeyboardInterrupt):
            put_pages(store, [a_tag(1), a_tag(2)])
    assert put_pages(store, [a_tag(1), a_tag(2)]) == 1
    assert tags_of(store, client, 2)[NOTE].startswith("**READY")


def test_ranking_keeps_the_alias_and_tagging_sets_it(store: MlflowStore, client: Any) -> None:
    put_pages(store, [a_tag(1), a_tag(2)], {a_checkpoint(1).id: ALIAS})
    put_pages(store, [a_tag(1, predicted=0.6), a_tag(2)])
    assert escaped(ALIAS) in tags_of(store, client)[NOTE]
    put_pages(store, [a_tag(1), a_tag(2)], {a_checkpoint(2).id: ALIAS})
    assert escaped(ALIAS) not in tags_of(store, client)[NOTE]
    assert escaped(ALIAS) in tags_of(store, client, 2)[NOTE]


def test_a_new_evaluation_keeps_the_verdict(store: MlflowStore, client: Any) -> None:
    put_pages(store, [a_tag(1, **RANKED)])
    store.put_evaluation(an_evaluation(1, value=0.9))
    page = tags_of(store, client)[NOTE]
    assert page.startswith("**READY for RL, rank 2 of 48")
    assert "0.9000 ± 0.0300" in page


def test_what_a_person_wrote_stays_and_the_tags_are_set(store: MlflowStore, client: Any) -> None:
    model_id = store.find(a_checkpoint(1).id).model_id
    client.set_logged_model_tags(model_id, {NOTE: "ours"})
    assert put_pages(store, [a_tag(1)]) == 1
    assert put_pages(store, [a_tag(1)]) == 0
    assert (tags_of(store, client)[NOTE], tags_of(store, client)["rl_ready"]) == ("ours", "true")


def test_a_page_of_an_earlier_version_is_replaced(store: MlflowStore, client: Any) -> None:
    earlier = "Written by rlready at each evaluation; edit this line away to keep your own text. V"
    model_id = store.find(a_checkpoint(1).id).model_id
    client.set_logged_model_tags(model_id, {NOTE: earlier})
    put_pages(store, [a_tag(1)])
    assert tags_of(store, client)[NOTE].startswith("**READY")


def test_a_verdict_that_was_edited_by_hand_stops_nothing(store: MlflowStore, client: Any) -> None:
    model_id = store.find(a_checkpoint(1).id).model_id
    put_pages(store, [a_tag(1)])
    client.set_logged_model_tags(model_id, {TAG: "nonsense"})
    store.put_evaluation(an_evaluation(1, value=0.9))
    assert tags_of(store, client)[NOTE].startswith("**Not ranked yet.**")
    assert put_pages(store, [a_tag(1)]) == 1
    assert tags_of(store, client)[NOTE].startswith("**READY")


def test_a_checkpoint_that_is_gone_is_passed_over(store: MlflowStore) -> None:
    assert put_pages(store, [a_tag(9), a_tag(1)]) == 1
    assert put_pages(store, []) == 0


@given(st.text(max_size=80))
@example(HOSTILE)
@example("1. a")
@example("# a")
@example("- a")
@example("+ a")
@example("==")
@example("> a")
@example("&lt;b&gt; &amp;amp;")
def test_any_text_shows_as_it_is(text: str) -> None:
    wanted = " ".join(printable(text).split())
    for html in (shown(escaped(text)), shown(f"- {escaped(text)}")):
        assert set(re.findall(r"<(\w+)", html)) <= {"p", "ul", "li"}
        assert unescape(re.sub(r"<[^>]*>", "", html)).strip() == wanted


@given(st.lists(st.text(max_size=30), min_size=2, max_size=2))
def test_no_text_leaves_its_cell(texts: list[str]) -> None:
    html = shown("\n".join(table_lines(("a", "b"), [[escaped(text) for text in texts]])))
    cells = [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", html)]
    wanted = [" ".join(printable(text).split()) for text in texts]
    assert [cell.replace("\N{EN SPACE}", "").strip() for cell in cells] == wanted


def test_names_of_strangers_are_plain_text_on_the_whole_page() -> None:
    recipe = a_checkpoint(1).recipe
    assert recipe is not None
    checkpoint = a_checkpoint(1, name=HOSTILE, recipe=type(recipe)(base_model=HOSTILE))
    tag = a_tag(reasons=(HOSTILE,), place=HOSTILE, predictor=HOSTILE)
    proxies = [a_proxy(benchmark=HOSTILE, name=HOSTILE)]
    outcomes = [an_outcome(benchmark=HOSTILE, algorithm=HOSTILE)]
    page = checkpoint_description(checkpoint, proxies, outcomes, tag, HOSTILE)
    assert "<script" not in page
    html = shown(page.replace("<br>", ""))
    expected = {"p", "strong", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert set(re.findall(r"<(\w+)", html)) == expected


def test_a_long_page_ends_whole() -> None:
    proxies = [a_proxy(benchmark=f"bench {n}", name=f"metric {n}") for n in range(400)]
    page = checkpoint_description(a_checkpoint(1), proxies)
    assert len(page) <= 12_000
    assert page.endswith(SIGNATURE)
    assert "`rlready show`" in page


def test_the_address_of_a_picture_is_quoted() -> None:
    text = picture("a [b]", "1f", "figures/x y).png")
    assert text == r"![a \[b\]](get-artifact?path=figures/x%20y%29.png&run_uuid=1f)"
