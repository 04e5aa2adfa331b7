"""The settings of a secured broker: what does not go together is refused, secrets come from files and are shown nowhere."""

import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from stream.cli.main import app
from stream.connection_settings import KafkaSettings
from stream.errors import IsthmusError
from stream.kafka.cluster.security import Security
from stream.kafka.cluster.tokens import TokenError, TokenSource
from stream.services.formats import schemas_of
from stream.settings import leaves, load, secret_variables
from tests.system.certificates import Authority
from tests.system.token_server import SECRET, TokenServer

USER = {"username": "app", "password": "x"}
TOKEN = {"token_url": "https://login.example/token", "client_id": "app", "client_secret": "x"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a settings file."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"security_protocol": "SSL"},
        {"security_protocol": "SSL", "ca_file": "ca.pem", "certificate_file": "own.pem"},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", **USER},
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", **USER},
        {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "scope": "kafka", **TOKEN},
        {"security_protocol": "PLAINTEXT", "username": "", "password": "", "sasl_mechanism": ""},
    ],
)
def test_what_goes_together_is_taken(given: dict[str, Any]) -> None:
    """An empty value is none, as a compose file hands it over."""
    assert KafkaSettings(**given).security_protocol == given.get("security_protocol", "PLAINTEXT")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"password": "x"},
            "password would not be used with security_protocol PLAINTEXT: set SASL with sasl_mechanism PLAIN or SCRAM",
        ),
        (
            {"ca_file": "ca.pem"},
            "ca_file would not be used with security_protocol PLAINTEXT: set security_protocol SSL or SASL_SSL",
        ),
        (
            {"sasl_mechanism": "PLAIN"},
            "sasl_mechanism would not be used with security_protocol PLAINTEXT: set security_protocol SASL_SSL",
        ),
        ({"security_protocol": "SSL", **USER}, "username and password would not be used with security_protocol SSL"),
        ({"security_protocol": "SASL_SSL"}, "SASL_SSL needs sasl_mechanism: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "app"},
            "PLAIN needs password too; a secret may be a file: ISTHMUS_KAFKA__PASSWORD_FILE",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", "token_url": "https://x"},
            "OAUTHBEARER needs client_id and client_secret too",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", **TOKEN, **USER},
            "username and password would not be used with security_protocol SASL_SSL and sasl_mechanism OAUTHBEARER",
        ),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER", **TOKEN, "token_url": "login.example"},
            "token_url must begin with https://",
        ),
        ({"security_protocol": "SSL", "key_file": "own.key"}, "need certificate_file"),
        (
            {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", **USER, "ca_file": "ca.pem"},
            "ca_file would not be used with security_protocol SASL_PLAINTEXT and sasl_mechanism PLAIN: set security_protocol SSL",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_what_to_write(given: dict[str, Any], words: str) -> None:
    """A client would ignore it, or fail without a reason."""
    with pytest.raises(ValidationError) as raised:
        KafkaSettings(**given)
    assert words in raised.value.errors()[0]["msg"]


def test_a_secret_may_come_from_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Docker and Kubernetes hand it over, without the newline that an editor adds. Its origin is shown, and not its value."""
    (here / "password").write_text("from-a-file\n")
    for name, value in {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "PLAIN", "USERNAME": "app"}.items():
        monkeypatch.setenv(f"ISTHMUS_KAFKA__{name}", value)
    monkeypatch.setenv("ISTHMUS_KAFKA__PASSWORD_FILE", str(here / "password"))
    settings = load()
    assert settings.kafka.password is not None
    assert settings.kafka.password.get_secret_value() == "from-a-file"
    assert ("kafka.password", "**********", "ISTHMUS_KAFKA__PASSWORD_FILE") in leaves(settings)


def test_every_secret_may_come_from_a_file() -> None:
    """Not only Kafka's."""
    names = secret_variables()
    assert {"ISTHMUS_KAFKA__PASSWORD", "ISTHMUS_KAFKA__CLIENT_SECRET", "ISTHMUS_KAFKA__KEY_PASSWORD"} <= set(names)
    assert {"ISTHMUS_STEP__ERASURE_KEY", "ISTHMUS_API__TOKEN_SECRETS", "ISTHMUS_REGISTRY__ANNOUNCEMENT_KEYS"} <= set(names)


@pytest.mark.parametrize(("also", "words"), [(False, "cannot be read"), (True, "are both set: leave one of them out")])
def test_a_file_that_is_missing_or_one_too_many_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, also: bool, words: str
) -> None:
    """With the variable that names it."""
    monkeypatch.setenv("ISTHMUS_KAFKA__PASSWORD_FILE", str(here / "missing"))
    if also:
        monkeypatch.setenv("ISTHMUS_KAFKA__PASSWORD", "x")
    with pytest.raises(IsthmusError, match=f"ISTHMUS_KAFKA__PASSWORD_FILE.*{words}"):
        load()


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by `isthmus settings`, nor by a refusal, nor by the objects that a traceback prints."""
    secret = "very-secret-word"
    for name in secret_variables():
        monkeypatch.setenv(name, f'["{secret}{"x" * 32}"]' if name.endswith(("SECRETS", "KEYS")) else secret)
    refused = CliRunner().invoke(app, ["settings"])
    for name, value in {"SECURITY_PROTOCOL": "SASL_SSL", "SASL_MECHANISM": "OAUTHBEARER"}.items():
        monkeypatch.setenv(f"ISTHMUS_KAFKA__{name}", value)
    for name, value in {"TOKEN_URL": "https://login.example/t", "CLIENT_ID": "app", "CERTIFICATE_FILE": "own.pem"}.items():
        monkeypatch.setenv(f"ISTHMUS_KAFKA__{name}", value)
    for name, value in {"URL": "https://registry.example", "USERNAME": "app", "CERTIFICATE_FILE": "own.pem"}.items():
        monkeypatch.setenv(f"ISTHMUS_SCHEMA_REGISTRY__{name}", value)
    monkeypatch.delenv("ISTHMUS_KAFKA__PASSWORD")
    shown = CliRunner().invoke(app, ["settings"])
    security = Security(load().kafka)
    with pytest.raises(IsthmusError, match=r"certificate_file own\.pem") as raised:
        _ = security.ssl_context
    with pytest.raises(IsthmusError, match=r"schema_registry.certificate_file own\.pem") as of_registry:
        schemas_of(load())
    errors = [*traceback.format_exception(raised.value), *traceback.format_exception(of_registry.value)]
    texts = [str(refused.exception), refused.output, shown.output, repr(security.settings), repr(security.tokens)]
    assert "would not be used with security_protocol PLAINTEXT" in texts[0]
    assert "kafka.client_secret" in shown.output
    assert secret not in "".join([*texts, *errors])


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (b"CERTIFICATE", r"its key \(kafka\.key_file is not set: in the same file\) cannot be used"),
        (b"PRIVATE KEY", r"certificate_file .* cannot be used \(.*\): check both files, that they belong together"),
    ],
)
def test_a_certificate_without_its_key_and_a_key_without_its_certificate_are_named(here: Path, kept: bytes, words: str) -> None:
    """Before a broker is asked. A key file without a certificate file is refused by the settings."""
    whole = Authority(here).issue("app").read_bytes()
    part = re.findall(rb"-----BEGIN " + kept + rb"-----.*?-----END " + kept + rb"-----\n", whole, re.DOTALL)[0]
    (here / "part.pem").write_bytes(part)
    kafka = KafkaSettings(security_protocol="SSL", ca_file=here / "ca.pem", certificate_file=here / "part.pem")
    with pytest.raises(IsthmusError, match=words):
        _ = Security(kafka).ssl_context


def test_a_token_is_renewed_when_half_of_its_life_is_over() -> None:
    """One token serves all connections until then."""
    now = [0.0]
    with TokenServer(life_s=100) as server:
        source = TokenSource(server.url, "app", SECRET, None, None, lambda: now[0])
        first = source.token()
        now[0] = 49.9
        assert source.token() == first
        now[0] = 50.0
        source.token()
        assert server.given["app"] == 2


def test_a_token_is_used_until_it_ends_while_the_token_server_is_away() -> None:
    """Then the error says where no token is to be had."""
    now = [0.0]
    with TokenServer(life_s=100) as server:
        source = TokenSource(server.url, "app", SECRET, None, None, lambda: now[0])
        first = source.token()
    now[0] = 99.0
    assert source.token() == first
    now[0] = 100.0
    with pytest.raises(TokenError, match=rf"{server.url} gives no token"):
        source.token()


def test_a_refusal_of_the_token_server_is_told_without_our_secret() -> None:
    """Its answer repeats what we sent, which is not passed on."""
    wrong = "a-secret-" * 2
    with (
        TokenServer() as server,
        pytest.raises(TokenError, match=r"refuses us \(401 invalid_client\): check kafka.client_id") as raised,
    ):
        TokenSource(server.url, "app", wrong, "kafka", None).token()
    text = "".join(traceback.format_exception(raised.value))
    assert wrong not in text
    assert "Basic" not in text
