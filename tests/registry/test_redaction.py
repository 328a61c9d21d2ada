"""No password, token or key in what is shown or stored."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlready.registry.errors import StoreError
from rlready.registry.redaction import has_secret, redacted, redacted_values

SECRET = "hunter2x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2x@host/db", "postgresql://me:***@host/db"),
        (
            "see postgresql+psycopg2://me:hunter2x@h:5/db!",
            "see postgresql+psycopg2://me:***@h:5/db!",
        ),
        ("http://me:hunter2x@host:5000/path", "http://me:***@host:5000/path"),
        ("http://hunter2x@host:5000", "http://***@host:5000"),
        ("http://me:a@hunter2x@host", "http://me:***@host"),
        ("postgresql://me:a/hunter2x@host", "postgresql://me:***@host"),
        ("postgresql://me:a b hunter2x@host", "postgresql://me:***@host"),
        ("sqlite:///x.db?password=hunter2x", "sqlite:///x.db?password=***"),
        ("sqlite:///x.db?a=1&secret=hunter2x&b=2", "sqlite:///x.db?a=1&secret=***&b=2"),
        ("https://host/?key=hunter2x#top", "https://host/?key=***#top"),
        ("--engine-option api_key=hunter2x", "--engine-option api_key=***"),
        ("host=h password=hunter2x user=me", "host=h password=*** user=me"),
        ("{'api_key': 'hunter2x', 'n': 3}", "{'api_key': '***', 'n': 3}"),
        ('{"client_secret": "hunter2x"}', '{"client_secret": "***"}'),
        ("Authorization: Bearer hunter2x", "Authorization: Bearer ***"),
        (
            "headers {'Authorization': 'Basic bWU6aHVudGVyMg=='}",
            "headers {'Authorization': 'Basic ***'}",
        ),
        ("got 'Bearer hunter2x'", "got 'Bearer ***'"),
    ],
)
def test_a_secret_is_hidden_and_the_rest_is_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///mlflow.db",
        "http://127.0.0.1:5000/#/experiments/1@b",
        "http://host:5000 does not answer; ask me@example.org",
        "postgresql://me@host/db",
        "max_tokens=5, eos_token=</s>, n_tokens=7",
        "sort by key=lambda, a monkey=5",
        "[SQL: SELECT x FROM tags WHERE key=?]",
        "basic training of tokenizer=fast",
        "models:/Qwen2.5@rl-ready",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text
    assert not has_secret(text)


def test_secrets_of_the_environment_are_hidden_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "OPENAI_API_KEY", "PGPASSWORD"):
        monkeypatch.setenv(name, f"{SECRET}{name}")
        assert redacted(f"the server said: {SECRET}{name} is wrong") == (
            "the server said: *** is wrong"
        )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@host")
    assert redacted(f"no user {SECRET}") == "no user ***"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert redacted("that is false") == "that is false"


def test_a_password_is_hidden_in_every_spelling() -> None:
    """A driver quotes what it decoded."""
    uri = "postgresql://me:hunter%402%2Fx@host/db"
    text = redacted("password hunter@2/x or hunter%402%2Fx; posterior", uri)
    assert text == "password *** or ***; posterior"


def test_a_part_of_a_word_is_no_password() -> None:
    assert redacted("posterior of post", "http://me:post@host") == "posterior of ***"


@given(
    secret=st.text("abcXYZ019-_.~!*():;=+@/#?%&", min_size=4).filter(
        lambda s: not s[0].isdigit() and "*" not in s
    ),
    scheme=st.sampled_from(["http", "postgresql", "mysql+pymysql"]),
    around=st.sampled_from(["{}", "the registry at {} failed", "'{}'", '{{"uri": "{}"}}']),
)
def test_no_password_of_a_uri_is_left(secret: str, scheme: str, around: str) -> None:
    shown = redacted(around.format(f"{scheme}://me:{secret}@host.example/db"))
    assert secret not in shown
    assert "@host.example/db" in shown


def test_values_of_a_configuration_are_hidden_by_their_names() -> None:
    config = {
        "tracking_uri": f"http://me:{SECRET}@host",
        "options": [f"api_key={SECRET}", "url=http://host:8000"],
        "deep": {"password": SECRET, "seed": 3, "nothing": None, "token": ""},
    }
    assert redacted_values(config) == {
        "tracking_uri": "http://me:***@host",
        "options": ["api_key=***", "url=http://host:8000"],
        "deep": {"password": "***", "seed": 3, "nothing": None, "token": ""},
    }


def test_errors_of_ours_hold_no_secret() -> None:
    uri = f"postgresql://me:{SECRET}@host/db"
    error = StoreError(f"{uri} is away", why=f"{uri} does not answer", fix=f"Start {uri}")
    for text in (str(error), repr(error), error.what, error.why, error.fix):
        assert SECRET not in text


@pytest.mark.parametrize("unit", ["a", "://a:", "password", "'", "a.", "Bearer ", "token=a ", "@"])
def test_a_long_text_takes_no_long_time(unit: str) -> None:
    """Texts of files are quoted in messages: 5,000 characters took 8 seconds."""
    begin = time.process_time()
    redacted(unit * (20_000 // len(unit)))
    assert time.process_time() - begin < 1.0
