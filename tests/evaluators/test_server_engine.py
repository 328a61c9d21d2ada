"""The client against a peer that misbehaves: a real HTTP server on loopback, and no waiting."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import math
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from openai_peer import Answer, Peer, listening, refusal

from rlready.evaluators.checkpoints.folder import load_tokenizer
from rlready.evaluators.sampling.sample_requests import folder_stop_ids
from rlready.evaluators.sampling.sampler import Draw, sample_seed
from rlready.evaluators.sampling.server import ServerSampler
from rlready.evaluators.sampling.server_client import Pace, PassingError
from rlready.evaluators.sampling.server_options import ServerOptions
from rlready.registry.errors import ConfigError, EvaluationError, RlreadyError
from rlready.registry.records import Problem, Protocol, Sample
from rlready.testbed.training.model import untrained_checkpoint

PROTOCOL = Protocol(prompt_template="{problem}", max_tokens=6)
PROBLEMS = [Problem(id=str(i), text="1+2" + "*3" * i + " mod 10", answers=("1",)) for i in range(4)]
KEY = "sk-very-secret-key"

Samples = dict[tuple[str, int], Sample]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint") / "sft")


class Waits:
    """Waits that take no time, and how long they would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


class Client:
    """A sampler and what became of it."""

    def __init__(self, folder: Path, url: str, **options: Any) -> None:
        self.waits, self.notices = Waits(), list[str]()
        self.sampler = ServerSampler(
            ServerOptions(url=url, **options),
            folder,
            load_tokenizer(folder),
            on_notice=self.notices.append,
            sleep=self.waits,
        )

    def draw(self, n: int = 8, protocol: Protocol = PROTOCOL) -> Samples:
        draws = [Draw(problem=p, sample_indices=tuple(range(n))) for p in PROBLEMS]
        return collected(self.sampler.draw(draws, protocol))

    def fails(self, kind: type[RlreadyError] = EvaluationError) -> str:
        with pytest.raises(kind) as caught:
            self.draw()
        return str(caught.value)


def collected(parts: Iterator[list[Sample]]) -> Samples:
    samples = [sample for part in parts for sample in part]
    found = {(s.problem_id, s.sample_index): s for s in samples}
    assert len(found) == len(samples)
    return found


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def url(peer: Peer) -> Iterator[str]:
    with listening(peer) as address:
        yield address


def test_samples_carry_what_the_server_said(peer: Peer, url: str, folder: Path) -> None:
    found = Client(folder, url).draw()
    assert set(found) == {(p.id, i) for p in PROBLEMS for i in range(8)}
    tokenizer = load_tokenizer(folder)
    ends = folder_stop_ids(folder, tokenizer)
    by_seed = {body["seed"]: peer._completion(body)["choices"][0] for body in peer.bodies}
    for (problem_id, index), sample in found.items():
        said = by_seed[sample.seed]
        assert sample.seed == sample_seed(0, problem_id, index)
        assert sample.text == tokenizer.decode(said["token_ids"], skip_special_tokens=True)
        assert sample.n_tokens == len(said["token_ids"])
        assert sample.finish_reason == said["finish_reason"]
        assert (sample.finish_reason == "stop") == (said["token_ids"][-1] in ends)
        assert sample.logprob_sum == pytest.approx(-math.log(200) * sample.n_tokens)
        assert sample.entropy_sum is None


def test_a_server_has_no_default_left_to_apply(peer: Peer, url: str, folder: Path) -> None:
    """VLLM would take top-k and penalties from the model's generation_config.json."""
    Client(folder, url).draw(1)
    (body, *_) = peer.bodies
    neutral = {"top_k": -1, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0}
    neutral |= {"frequency_penalty": 0, "min_tokens": 0, "ignore_eos": False}
    assert {name: body[name] for name in neutral} == neutral
    assert body["stop_token_ids"] == list(folder_stop_ids(folder, load_tokenizer(folder)))
    assert all(isinstance(token, int) for token in body["prompt"])


@pytest.mark.parametrize("n", [1, 3, 16])
def test_any_subset_in_any_chunks_has_the_same_seeds(
    peer: Peer, url: str, folder: Path, n: int
) -> None:
    client = Client(folder, url, n_per_request=n)
    whole = client.draw(20)
    assert len({sample.seed for sample in whole.values()}) == len(whole)
    draws = [Draw(problem=PROBLEMS[2], sample_indices=(0, 4, 5, 6, 17))]
    again = collected(client.sampler.draw(draws, PROTOCOL))
    assert again == {key: whole[key] for key in again}
    assert max(body.get("n", 1) for body in peer.bodies) == n


def test_chunks_are_refused_where_they_may_share_a_seed(peer: Peer, url: str, folder: Path) -> None:
    peer.models[0]["owned_by"] = "sglang"
    with pytest.raises(ConfigError, match=r"calls itself sglang.*Leave n_per_request out"):
        Client(folder, url, n_per_request=2)


def test_no_more_is_under_way_than_asked_for(peer: Peer, url: str, folder: Path) -> None:
    Client(folder, url, concurrency=3).draw(16)
    assert peer.most_at_once <= 3


def some(kind: Callable[[], Answer], numbers: set[int]) -> Callable[[int, Any], Answer | None]:
    """The answer to these requests; the others are answered well."""
    return lambda number, body: kind() if number in numbers else None


FAILURES: dict[str, Callable[[], Answer]] = {
    "429": lambda: refusal(429, "slow down"),
    "500": lambda: refusal(500, "EngineDeadError"),
    "503": lambda: (503, {}, b"<html>upstream is gone</html>"),
    "connection cut": lambda: (0, {}, b""),
    "answer cut": lambda: (200, {"Content-Length": "1000"}, b'{"choices": ['),
    "garbled JSON": lambda: (200, {}, b'{"choices": [}'),
    "no JSON": lambda: (200, {}, b"\xff\xfe ok"),
}


@pytest.mark.parametrize("kind", list(FAILURES))
def test_what_passes_is_asked_again_and_changes_no_sample(
    peer: Peer, url: str, folder: Path, kind: str
) -> None:
    undisturbed = Client(folder, url).draw()
    peer.bodies.clear()
    peer.disturb = some(FAILURES[kind], {0, 3, 4, 20})
    if kind == "answer cut":
        peer.disturb = some(lambda: (200, {"Connection": "close"}, b'{"choices": ['), {0, 3, 20})
    client = Client(folder, url)
    assert client.draw() == undisturbed
    assert client.waits.seconds
    assert len(client.notices) == len(client.waits.seconds)
    assert "asking again" in client.notices[0]


def test_a_dropped_sample_is_asked_for_again(peer: Peer, url: str, folder: Path) -> None:
    """VLLM ends what is under way with `abort` when it shuts down."""
    undisturbed = Client(folder, url).draw()
    count = iter(range(1000))

    def aborting(answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        if next(count) < 2:
            answer["choices"][0]["finish_reason"] = "abort"
        return answer

    peer.change = aborting
    client = Client(folder, url)
    assert client.draw() == undisturbed
    assert "dropped a sample" in client.notices[0]


def test_a_storm_is_met_with_growing_pauses_and_fewer_requests(
    peer: Peer, url: str, folder: Path
) -> None:
    peer.disturb = lambda number, body: refusal(429, "too many requests")
    client = Client(folder, url, concurrency=16, max_retries=7)
    said = client.fails()
    assert "429" in said
    assert "too many requests" in said
    assert "8 times in a row" in said
    assert "samples drawn so far are kept" in said
    assert "run the same command again" in said
    waits = client.waits.seconds
    assert len(waits) == 7
    assert all(2**i / 2 <= wait <= 2**i for i, wait in enumerate(waits[:6]))
    assert max(waits) <= 60
    # 16 at first, then 8, 4, 2 and one at a time: not 16 x 8.
    assert len(peer.bodies) <= 16 + 8 + 4 + 2 + 1 + 1 + 1 + 1


def test_stragglers_of_one_storm_are_one_failure() -> None:
    """What was under way when the pause began may fail while it lasts."""

    async def run() -> tuple[list[int], int]:
        over, pauses = asyncio.Event(), list[str]()
        pace = Pace(8, lambda seconds: over.wait(), pauses.append)
        async with pace.turn() as sent:
            counts = [pace.n_in_a_row(sent)]
        pause = asyncio.create_task(pace.failed(PassingError("is down"), sent))
        await asyncio.sleep(0)
        await pace.failed(PassingError("is down"), sent)  # returns at once
        counts.append(pace.n_in_a_row(sent))
        over.set()
        await pause
        # On a busy machine a failure may arrive after the pause that it belongs to.
        await pace.failed(PassingError("is down"), sent)
        counts.append(pace.n_in_a_row(sent))
        async with pace.turn() as sent:
            counts.append(pace.n_in_a_row(sent))
        return counts, len(pauses)

    assert asyncio.run(run()) == ([1, 1, 1, 2], 1)


def test_what_was_finished_before_a_storm_is_handed_over(
    peer: Peer, url: str, folder: Path
) -> None:
    peer.disturb = lambda number, body: refusal(503) if number >= 10 else None
    client = Client(folder, url, concurrency=1, max_retries=2)
    kept: list[list[Sample]] = []
    draws = [Draw(problem=p, sample_indices=tuple(range(8))) for p in PROBLEMS]
    with pytest.raises(EvaluationError, match="503"):
        kept.extend(client.sampler.draw(draws, PROTOCOL))
    assert [len(part) for part in kept] == [10]


def test_one_request_that_always_fails_ends_the_run(peer: Peer, url: str, folder: Path) -> None:
    poison = sample_seed(0, "2", 3)
    peer.disturb = lambda number, body: refusal(500, "boom") if body["seed"] == poison else None
    said = Client(folder, url, max_retries=3).fails()
    assert "boom" in said
    assert sum(body["seed"] == poison for body in peer.bodies) == 4


@pytest.mark.parametrize(
    ("asked", "expected"), [("7", 7.0), ("0.25", None), ("soon", None), ("date", 100.0)]
)
def test_retry_after_is_honoured(
    peer: Peer, url: str, folder: Path, asked: str, expected: float | None
) -> None:
    import time

    value = formatdate(time.time() + 101, usegmt=True) if asked == "date" else asked
    peer.disturb = some(lambda: refusal(429, "wait", Retry_After=value), {0})
    client = Client(folder, url, concurrency=1)
    client.draw(1)
    (wait,) = client.waits.seconds
    if expected is None:
        assert 0.5 <= wait <= 1.0
    else:
        assert expected - 60 * (asked == "date") <= wait <= expected + 2


def test_a_server_that_wants_an_hour_is_left_to_the_user(
    peer: Peer, url: str, folder: Path
) -> None:
    peer.disturb = lambda number, body: refusal(429, "quota", Retry_After="3600")
    client = Client(folder, url)
    assert "asks for a pause of 3600 s" in client.fails()
    assert client.waits.seconds == []


def test_a_slow_server_is_told_from_a_dead_one(peer: Peer, url: str, folder: Path) -> None:
    import threading

    over = threading.Event()

    def hang(number: int, body: dict[str, Any]) -> Answer | None:
        over.wait(30)
        return None

    peer.disturb = hang
    client = Client(folder, url, timeout_s=0.05, max_retries=1)
    try:
        assert "gave no answer within 0.05 s" in client.fails()
    finally:
        over.set()


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refusal_is_told_at_once_in_the_servers_words(
    peer: Peer, url: str, folder: Path, status: int
) -> None:
    message = "maximum context length is 10 tokens\x1b[31m\n\n" + "x" * 1000
    peer.disturb = lambda number, body: refusal(status, message)
    client = Client(folder, url)
    said = client.fails()
    assert f"answered {status}" in said
    assert "maximum context length is 10 tokens" in said
    assert "\x1b" not in said
    assert len(said) < 800
    assert client.waits.seconds == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "Not Found"}, "Not Found"),
        ({"object": "error", "message": "bad seed"}, "bad seed"),
        ({"error": "Unauthorized"}, "Unauthorized"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
    ],
)
def test_every_servers_way_to_word_an_error_is_read(
    peer: Peer, url: str, folder: Path, body: dict[str, Any], words: str
) -> None:
    peer.disturb = lambda number, _: (400, {}, json.dumps(body).encode())
    assert words in Client(folder, url).fails()


def without(*path: str | int) -> Callable[[Any, Any], Any]:
    def change(answer: Any, body: Any) -> Any:
        place = answer
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        return answer

    return change


def with_value(value: Any, *path: str | int) -> Callable[[Any, Any], Any]:
    def change(answer: Any, body: Any) -> Any:
        place = answer
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        return answer

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer, body: [], "is not a completion"),
        (without("choices"), "is not a completion"),
        (with_value([], "choices"), "gave 0 samples of problem .* when asked for 1"),
        (with_value(["x"], "choices"), "is not a completion"),
        (with_value("many", "choices", 0, "token_ids"), "is not a completion"),
        (without("choices", 0, "finish_reason"), "is not a completion"),
        (with_value("content_filter", "choices", 0, "finish_reason"), "'content_filter'"),
        (with_value(None, "choices", 0, "finish_reason"), "'None'"),
        (with_value("other-model", "model"), "'other-model' when asked for 'sft'"),
        (with_value(9999, "usage", "prompt_tokens"), "as 9999 tokens; it has .* second BOS"),
    ],
)
def test_an_answer_that_is_none_ends_the_run(
    peer: Peer, url: str, folder: Path, change: Callable[[Any, Any], Any], message: str
) -> None:
    import re

    peer.change = change
    said = Client(folder, url).fails()
    assert re.search(message, said), said


def test_fewer_samples_than_asked_for_are_never_taken_for_all(
    peer: Peer, url: str, folder: Path
) -> None:
    peer.change = lambda answer, body: answer | {"choices": answer["choices"][:2]}
    said = Client(folder, url, n_per_request=8).fails()
    assert "gave 2 samples of problem" in said
    assert "when asked for 8" in said
    assert "n_per_request=1" in said


def test_samples_without_a_length_are_refused(peer: Peer, url: str, folder: Path) -> None:
    def bare(answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            del choice["token_ids"], choice["logprobs"]
        return answer

    peer.change = bare
    assert "does not say how many tokens" in Client(folder, url, n_per_request=8).fails()
    assert Client(folder, url).draw(2)  # one sample alone has the request's own count


def test_a_server_that_repeats_itself_is_found_out(peer: Peer, url: str, folder: Path) -> None:
    """SGLang with deterministic inference ignored the seeds of /v1/completions."""
    long = Protocol(prompt_template="{problem}", max_tokens=60)
    stream = peer._completion
    peer.change = lambda answer, body: stream(body | {"seed": 42})
    with pytest.raises(EvaluationError, match="ignores the seeds"):
        Client(folder, url).draw(8, long)


def test_short_equal_texts_are_valid_draws(peer: Peer, url: str, folder: Path) -> None:
    peer.n_tokens = 2
    found = Client(folder, url).draw(32)
    texts = [sample.text for sample in found.values()]
    assert len(set(texts)) < len(texts)


def test_the_same_sample_may_be_drawn_twice(peer: Peer, url: str, folder: Path) -> None:
    long = Protocol(prompt_template="{problem}", max_tokens=60)
    client = Client(folder, url)
    assert client.draw(4, long) == client.draw(4, long)


@pytest.mark.parametrize(
    ("at_1", "at_2", "is_raw"),
    [(-1.25, -1.25, True), (-1.25, -1.251, True), (-1.25, -2.5, False), (-1e-6, -1e-5, False)],
)
def test_processed_log_probabilities_are_left_out(
    peer: Peer, url: str, folder: Path, at_1: float, at_2: float, is_raw: bool
) -> None:
    """A first token that is certain at any temperature tells nothing of the others."""

    def change(answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        assert body["temperature"] <= 2.0  # all that vLLM accepts
        if body["logprobs"] == 1:
            best = at_1 if body["temperature"] == 1.0 else at_2
            answer["choices"][0]["logprobs"]["top_logprobs"] = [{"a": best, "b": -20.0}]
        return answer

    peer.change = change
    cold = Protocol(prompt_template="{problem}", max_tokens=6, temperature=0.7)
    found = Client(folder, url).draw(4, cold)
    assert all((sample.logprob_sum is not None) == is_raw for sample in found.values())
    peer.bodies.clear()
    Client(folder, url).draw(4)
    assert len(peer.bodies) == 16  # at temperature 1 there is nothing to find out


@pytest.mark.parametrize(
    "change",
    [
        without("choices", 0, "logprobs"),
        with_value(None, "choices", 0, "logprobs"),
        with_value([-1.0], "choices", 0, "logprobs", "token_logprobs"),
        with_value([None] * 6, "choices", 0, "logprobs", "token_logprobs"),
    ],
)
def test_without_log_probabilities_there_is_no_sum(
    peer: Peer, url: str, folder: Path, change: Callable[[Any, Any], Any]
) -> None:
    def fixed_length(answer: dict[str, Any], body: dict[str, Any]) -> Any:
        answer["choices"][0]["token_ids"] = [65] * 6
        return change(answer, body)

    peer.change = fixed_length
    assert all(sample.logprob_sum is None for sample in Client(folder, url).draw(2).values())


def test_a_plain_server_gets_text_and_standard_fields_only(
    peer: Peer, url: str, folder: Path
) -> None:
    tokenizer = load_tokenizer(folder)

    def plain(answer: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        (choice,) = answer["choices"]
        del choice["token_ids"], choice["logprobs"]
        n_prompt = len(tokenizer(body["prompt"]).input_ids)
        return answer | {"usage": answer["usage"] | {"prompt_tokens": n_prompt}}

    peer.change = plain
    found = Client(folder, url, plain=True).draw(2)
    standard = {"model", "prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs"}
    assert set(peer.bodies[0]) == standard
    assert all("mod 10" in body["prompt"] for body in peer.bodies)
    assert all(sample.n_tokens >= 1 and sample.text for sample in found.values())


# Which model


@pytest.mark.parametrize(
    "card",
    [
        {"id": "sft"},
        {"id": "runs/sft"},
        {"id": "policy", "root": "/somewhere/else/sft/"},
    ],
)
def test_the_checkpoint_is_found_by_its_name(
    peer: Peer, url: str, folder: Path, card: dict[str, Any]
) -> None:
    peer.models = [{"id": "base", "root": "/models/base"}, card]
    client = Client(folder, url)
    client.draw(1)
    assert {body["model"] for body in peer.bodies} == {card["id"]}
    assert client.sampler.describe()["model"] == card["id"]


def test_another_model_is_not_measured_under_the_checkpoints_name(
    peer: Peer, url: str, folder: Path
) -> None:
    peer.models = [{"id": "Qwen/Qwen3-8B", "root": "Qwen/Qwen3-8B"}]
    with pytest.raises(ConfigError, match=r"serves 'Qwen/Qwen3-8B'.*model=Qwen/Qwen3-8B"):
        Client(folder, url)
    assert Client(folder, url, model="Qwen/Qwen3-8B").draw(1)
    with pytest.raises(ConfigError, match="does not serve the model 'Qwen/Qwen3-4B'"):
        Client(folder, url, model="Qwen/Qwen3-4B")
    peer.models = []
    with pytest.raises(ConfigError, match="serves no model,"):
        Client(folder, url)


def test_a_step_of_another_run_is_another_model(peer: Peer, url: str, tmp_path: Path) -> None:
    """Every run has a checkpoint-500."""
    folder = untrained_checkpoint(tmp_path / "run-a" / "checkpoint-500")
    for root, is_it in (("/x/run-a/checkpoint-500", True), ("/x/run-b/checkpoint-500", False)):
        peer.models = [{"id": "policy", "root": root}]
        if is_it:
            assert Client(folder, url).draw(1)
        else:
            with pytest.raises(ConfigError, match="is unclear which model"):
                Client(folder, url)


def test_a_hub_id_is_a_name_too(peer: Peer, url: str, folder: Path) -> None:
    peer.models = [{"id": "org/model"}]
    options = ServerOptions(url=url)
    sampler = ServerSampler(options, folder, load_tokenizer(folder), hub_id="org/model")
    assert sampler.describe()["model"] == "org/model"


def test_a_prompt_beyond_the_servers_context_is_told_before_any_request(
    peer: Peer, url: str, folder: Path
) -> None:
    peer.models[0]["max_model_len"] = 20
    said = Client(folder, url).fails()
    assert "exceeds the model's context of 20" in said
    assert peer.bodies == []


# Not there


def test_a_server_that_is_down_is_told_at_once(folder: Path) -> None:
    with listening(Peer()) as gone:
        pass
    with pytest.raises(EvaluationError, match=r"reached \(Connection refused\).*Start it"):
        Client(folder, gone)


@pytest.mark.parametrize(
    "models", [b"[]", b'{"data": [{}]}', b'{"data": 3}', b"<html>", b"[" * 100_000]
)
def test_something_else_at_the_url_is_told(
    peer: Peer, folder: Path, models: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai_peer.ok", lambda content: (200, {}, models))
    with (
        listening(peer) as address,
        pytest.raises(EvaluationError, match=r"not a list of models|not JSON"),
    ):
        Client(folder, address)


def test_an_answer_without_end_is_refused(
    peer: Peer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = gzip.compress(b" " * 1_000_000)
    monkeypatch.setattr("openai_peer.ok", lambda _: (200, {"Content-Encoding": "gzip"}, bomb))
    monkeypatch.setattr("rlready.evaluators.sampling.server_client._MAX_ANSWER_BYTES", 500_000)
    with (
        listening(peer) as address,
        pytest.raises(EvaluationError, match="sent more than 500000 bytes"),
    ):
        Client(folder, address)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "Give http://host:port"),
        ("ftp://host/", "Give http://host:port"),
        ("http://", "Give http://host:port"),
        ("http://host:port", "is not a URL"),
        ("http://me:sk-very-secret-key@host:8000", "holds credentials"),
        ("http://sk-very-secret-key@host:8000", "holds credentials"),
        ("http://host:8000/v1?key=sk-very-secret-key", "holds credentials"),
    ],
)
def test_a_url_that_cannot_be_meant_or_holds_a_key_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ServerOptions(url=url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://host:8/v1", "http://host:8/v1/", "http://host:8/", "http://host:8"]
)
def test_a_url_may_end_in_v1(url: str) -> None:
    assert ServerOptions(url=url).url == "http://host:8"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", 0),
        ("max_retries", -1),
        ("n_per_request", 0),
        ("n_per_request", 65),
        ("timeout_s", 0.0),
        ("timeout_s", math.nan),
    ],
)
def test_options_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=option):
        ServerOptions(url="http://host", **{option: value})  # type: ignore[arg-type]


# The key


def test_the_key_is_sent_and_told_to_nobody_else(
    peer: Peer,
    url: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("TEAM_KEY", KEY)
    peer.disturb = lambda number, body: refusal(401, f"Incorrect API key provided: {KEY}.")
    client = Client(folder, url, key_variable="TEAM_KEY")
    assert peer.headers[0]["Authorization"] == f"Bearer {KEY}"
    said = client.fails()
    assert "Incorrect API key provided: ***" in said
    everything = said + repr(client.sampler._endpoint) + repr(client.sampler.describe())
    assert KEY not in everything + caplog.text + repr(client.sampler._options)


def test_without_a_key_none_is_sent(
    peer: Peer, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Client(folder, url)
    assert "Authorization" not in peer.headers[0]


def test_a_key_that_is_missing_or_in_the_wrong_place_is_told(
    url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="TEAM_KEY is not set"):
        Client(folder, url, key_variable="TEAM_KEY")
    with pytest.raises(ConfigError, match="not the name of an environment variable") as caught:
        Client(folder, url, key_variable=KEY)
    assert KEY not in str(caught.value)
    monkeypatch.setenv("TEAM_KEY", "two words")
    with pytest.raises(ConfigError, match="does not hold a key") as caught:
        Client(folder, url, key_variable="TEAM_KEY")
    assert "two words" not in str(caught.value)


# Parts and their end


def test_parts_come_while_the_rest_is_drawn(peer: Peer, url: str, folder: Path) -> None:
    draws = [Draw(problem=PROBLEMS[0], sample_indices=tuple(range(600)))]
    one = Protocol(prompt_template="{problem}", max_tokens=2)
    progress: list[tuple[int, int]] = []
    client = Client(folder, url, concurrency=8)
    parts = client.sampler.draw(draws, one, lambda n, tokens: progress.append((n, tokens)))
    sizes = [len(part) for part in parts]
    assert sizes == [512, 88]
    assert sum(n for n, _ in progress) == 600
    assert sum(tokens for _, tokens in progress) >= 600


def test_an_abandoned_draw_asks_for_nothing_more(peer: Peer, url: str, folder: Path) -> None:
    draws = [Draw(problem=PROBLEMS[0], sample_indices=tuple(range(5000)))]
    parts = Client(folder, url, concurrency=4).sampler.draw(draws, PROTOCOL)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    n_asked = len(peer.bodies)
    assert n_asked < 5000
    assert len(peer.bodies) == n_asked


def test_a_draw_works_where_an_event_loop_runs_already(url: str, folder: Path) -> None:
    """A notebook or a Ray actor has one."""

    async def cell() -> Samples:
        return Client(folder, url).draw(2)

    assert len(asyncio.run(cell())) == 8


def test_a_restarted_server_gives_what_was_missing_and_nothing_twice(folder: Path) -> None:
    """The server dies in mid-run; another one in its place goes on with the same samples."""
    whole_peer = Peer()
    with listening(whole_peer) as address:
        whole = Client(folder, address).draw(16)
    dying = Peer(disturb=lambda number, body: (0, {}, b"") if number >= 20 else None)
    parts: list[list[Sample]] = []
    draws = [Draw(problem=p, sample_indices=tuple(range(16))) for p in PROBLEMS]
    with listening(dying) as address:
        port = int(address.rsplit(":", 1)[1])
        client = Client(folder, address, concurrency=4, max_retries=2)
        with pytest.raises(EvaluationError, match="cannot be reached"):
            parts.extend(client.sampler.draw(draws, PROTOCOL))
    kept = collected(iter(parts))
    assert 0 < len(kept) < 64
    rest = [
        Draw(
            problem=p,
            sample_indices=tuple(i for i in range(16) if (p.id, i) not in kept),
        )
        for p in PROBLEMS
    ]
    with listening(Peer(), port):
        added = collected(client.sampler.draw(rest, PROTOCOL))
    assert not set(kept) & set(added)
    assert kept | added == whole


# The whole evaluation


def benchmark_file(folder: Path) -> Path:
    rows = [{"id": p.id, "problem": p.text, "answer": "1"} for p in PROBLEMS]
    path = folder / "toy.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.slow
def test_an_evaluation_outlives_a_storm_and_needs_no_device(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlready.registry.store import MemoryStore
    from rlready.workflow.evaluate.config import EvaluateConfig
    from rlready.workflow.evaluate.evaluator import evaluate_checkpoint
    from rlready.workflow.progress import Clock

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    dying = Peer(disturb=lambda number, body: refusal(500, "boom") if number >= 20 else None)
    store = MemoryStore()
    with listening(dying) as address:
        port = int(address.rsplit(":", 1)[1])
        config = EvaluateConfig(
            checkpoint=str(folder),
            benchmarks=(f"toy={benchmark_file(tmp_path)}",),
            samples=16,
            max_tokens=6,
            engine="server",
            engine_options=(f"url={address}/v1", "concurrency=4", "max_retries=0"),
            device="cuda:7",  # asked for, it would not be there
            prompt_template=None,
            samples_dir=tmp_path / "samples",
        )
        with pytest.raises(EvaluationError, match="boom"):
            evaluate_checkpoint(config, store, Clock())
    with listening(Peer(), port):
        report = evaluate_checkpoint(config, store, Clock())
    assert report.n_drawn + report.n_found == 64
    assert 0 < report.n_found <= 20
    used = report.evaluation.config["engine_used"]
    assert used["model"] == "sft"
    assert used["url"] == address
    assert used["server"] == "vllm"
    assert KEY not in repr(report.evaluation)


@pytest.mark.parametrize("given", [f"api_key={KEY}", KEY, f"key={KEY}"])
def test_a_key_given_as_an_option_is_refused_and_not_repeated(tmp_path: Path, given: str) -> None:
    from rlready.workflow.evaluate.config import EvaluateConfig

    options = ("url=http://host", given)
    with pytest.raises(ConfigError, match="no such option") as caught:
        EvaluateConfig(checkpoint=str(tmp_path), engine="server", engine_options=options)
    assert KEY not in str(caught.value)


def test_the_engine_needs_a_url(tmp_path: Path) -> None:
    from rlready.workflow.evaluate.config import EvaluateConfig

    with pytest.raises(ConfigError, match="the engine server needs url"):
        EvaluateConfig(checkpoint=str(tmp_path), engine="server")
