"""No secret is kept or shown, however it is spelled, and what is none stays as it was."""

from __future__ import annotations

import json
import time

import pytest

from esb.redaction import REDACTED, Redactor, is_secret_name, secret_values

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
