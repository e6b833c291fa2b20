"""No secret is kept or shown, however it is spelled, and what is none stays as it was."""

from __future__ import annotations

import base64
import html
import json
import time
from urllib.parse import quote, quote_plus

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from esb import logs
from esb.errors import EsbError
from esb.options import Options, secrets_of
from esb.redaction import (
    REDACTED,
    Redactor,
    is_secret_name,
    known_secrets,
    secret_values,
    shown,
)

SECRET = "hunter2-is-secret"


@pytest.mark.parametrize(
    "name",
    [
        *("password", "Password", "userPassword", "PASSWORD_HASH", "x-api-key", "apiKey", "pwd"),
        *("accessToken", "refresh_token", "client_secret", "private-key", "db.credentials"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["key", "tokenizer", "passenger", "keyboard", "api", "secretary"])
def test_names_of_what_is_no_secret(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"user": "ann", "password": "{SECRET}"}}',
        f'{{"password" : "{SECRET}',  # cut off
        f'{{"password": "a\\"{SECRET}"}}',
        f'{{"credentials": {{"name": "{SECRET}", "more": ["]", "{SECRET}"]}}, "n": 1}}',
        f'{{"tokens": ["{SECRET}", "{SECRET}',
        f"user=ann&password={SECRET}&x=1",
        f"<a><Password>{SECRET}</Password></a>",
        f'<w:Password Type="Text">{SECRET}</w:Password>',
        f"<credentials><user>{SECRET}</user></credentials>",
        f"<secret>{SECRET}",
        f'<login password="{SECRET}"/>',
        f"password: {SECRET}\nuser: ann",
        f"{{'password': '{SECRET}'}}",
    ],
)
def test_fields_with_secrets(text: str) -> None:
    shown = Redactor().text(text)
    assert SECRET not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "text",
    [
        '{"user": "ann", "n": [1, {"a": "b: c"}], "t": "12:30"}',
        "<a x='1'><b>text</b><c/></a>",
        "<password/>",
        "a=1&b=2",
    ],
)
def test_the_rest_stays_as_it_was(text: str) -> None:
    assert Redactor().text(text) == text


def test_what_comes_behind_a_secret_is_there() -> None:
    shown = Redactor().text('{"secret": {"a": "}"}, "password": "x", "city": "Graz"}')
    assert json.loads(shown) == {"secret": REDACTED, "password": REDACTED, "city": "Graz"}


def test_data_and_headers() -> None:
    redact = Redactor(names=["Shoe-Size"])
    data = {"a": [{"token": SECRET, "n": 1}], "password": None, "shoe-size": 43}
    assert redact.data(data) == {
        "a": [{"token": REDACTED, "n": 1}], "password": None, "shoe-size": REDACTED,
    }  # fmt: skip
    pairs = [("Authorization", "Basic x"), ("Cookie", "a=b"), ("X-Api-Key", "k"), ("x-n", 1)]
    assert redact.headers(pairs) == [
        ("Authorization", REDACTED), ("Cookie", REDACTED), ("X-Api-Key", REDACTED), ("x-n", "1"),
    ]  # fmt: skip


def test_values_that_came_from_outside() -> None:
    resolved = {
        "CRM_PASSWORD": SECRET,
        "file:/run/secrets/x": "from-a-file",
        "AMQP_URL": "amqp://bus:p%40ssw0rd@host/",
        "CRM_URL": "http://crm.example",
        "API_KEY:-": "abc",  # too short to be told from other texts
    }
    redact = Redactor(values=lambda: secret_values(resolved))
    told = f"said {SECRET} and from-a-file to p%40ssw0rd p@ssw0rd at http://crm.example abc"
    assert redact.value(told) == "said *** and *** to *** *** at http://crm.example abc"
    resolved["OTHER_TOKEN"] = "later"
    assert redact.data({"x": "later"}) == {"x": REDACTED}


@pytest.mark.parametrize(
    "text",
    [
        *("a" * 9000, "a." * 4500, '"' * 9000, '\\"' * 9000, "<a " * 9000),
        *('{"password": ' * 900, "<password>" * 900, "password=" * 900),
    ],
)
def test_hostile_texts_take_no_time(text: str) -> None:
    begun = time.process_time()
    Redactor().text(text)
    assert time.process_time() - begun < 2


SPECIAL = 's3cr"t&+/<é of ours'


@pytest.mark.parametrize("before", ["", "u:", "us:", "use:"])
def test_secrets_however_they_are_written(before: str) -> None:
    redactor = Redactor(values=lambda: [SPECIAL])
    whole = base64.b64encode(f"{before}{SPECIAL}".encode()).decode()
    for text in (
        SPECIAL, quote(SPECIAL, safe=""), quote_plus(SPECIAL), json.dumps(SPECIAL)[1:-1],
        json.dumps(SPECIAL, ensure_ascii=False)[1:-1], html.escape(SPECIAL),
        html.escape(SPECIAL, quote=False),
    ):  # fmt: skip
        assert redactor.value(f"a {text} b") == f"a {REDACTED} b"
    shown = redactor.value(f"Basic {whole}")
    assert REDACTED in shown
    assert len(shown) < len("Basic ") + 12  # what is left tells nothing


def test_what_a_process_knows_is_in_no_note_and_no_log(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "known-to-this-process"
    known_secrets([secret, "short"])
    assert "known-to" not in str(EsbError("no").noted(f"it said {secret}").notes)
    assert shown("short words stay") == "short words stay"
    for as_json in (True, False):
        logs.configure(json=as_json)
        try:
            raise ValueError(f"it was {secret}")
        except ValueError:
            structlog.get_logger("esb").exception("failed", why=[secret], text=quote(secret))
        told = capsys.readouterr().err
        assert "ValueError" in told
        assert secret not in told


def test_secrets_of_options_are_known() -> None:
    class Inner(Options):
        key: SecretStr

    class Outer(Options):
        inner: list[Inner]
        users: dict[str, SecretStr]
        url: SecretStr
        name: str

    outer = Outer.model_validate({
        "inner": [{"key": "the-inner-key"}], "users": {"ann": "password-of-ann"},
        "url": "amqp://bus:the-url-password@host/", "name": "no-secret-at-all",
    })  # fmt: skip
    assert secret_values({}, secrets_of(outer)) == {
        "the-inner-key", "password-of-ann", "the-url-password",
    }  # fmt: skip


@given(data=st.data())
def test_a_secret_is_found_wherever_it_stands(data: st.DataObject) -> None:
    letters = st.text("ab", min_size=4, max_size=9)
    values = data.draw(st.lists(letters, min_size=1, max_size=3))
    text = data.draw(st.text("abc", max_size=40))
    redactor = Redactor(values=lambda: values)
    assert (redactor.value(text) != text) == any(value in text for value in values)
