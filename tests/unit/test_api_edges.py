"""The API's edge: CORS, proxies, TLS, and an API without keys."""

import asyncio
import datetime as dt
import ipaddress
import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from typer.testing import CliRunner

from stream.api.app import make_app
from stream.cli.main import app
from stream.errors import IsthmusError
from stream.metrics import Metrics
from stream.process_settings import ApiSettings
from stream.services.http_server import serve
from tests import api
from tests.api import Replica, replica

SHOP = "https://shop.example"


@pytest.mark.parametrize("origin", [SHOP, "https://evil.example", "null"])
async def test_without_origins_no_page_may_read_an_answer(tmp_path: Path, origin: str) -> None:
    """No header of CORS in any answer, preflights included."""
    async with replica(api.new_log(), tmp_path) as started:
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        answers = [await started.get("/v1/items", headers=asked), await started.client.options("/v1/items", headers=asked)]
    for answer in answers:
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_pages_of_the_set_origins_may_read_answers(tmp_path: Path) -> None:
    """By the whole origin; credentials are headers, so cookies are never asked for. Caches keep origins apart."""
    async with replica(api.new_log(), tmp_path, cors_origins=(SHOP,)) as started:
        answer = await started.get("/v1/items", headers={"Origin": SHOP})
        assert answer.headers["Access-Control-Allow-Origin"] == SHOP
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
        assert answer.headers.get_list("Vary") == ["Authorization, Origin"]
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, isthmus-user-token"}
        preflight = await started.client.options("/v1/events", headers={"Origin": SHOP, **asked})
        assert (preflight.status_code, preflight.headers["Access-Control-Allow-Origin"]) == (204, SHOP)
        for origin in ("https://evil.example", f"{SHOP}.evil.example", "http://shop.example", f"{SHOP}:8443", "null"):
            refused = await started.get("/v1/items", headers={"Origin": origin})
            assert "Access-Control-Allow-Origin" not in refused.headers


@pytest.mark.parametrize("setting", [{"cors_origins": ("*",)}, {"cors_origins": (f"{SHOP}/",)}, {"trusted_proxies": ("*",)}])
def test_settings_that_would_open_everything_are_refused(setting: dict[str, Any]) -> None:
    """An origin is a scheme, a host and a port; a proxy is an address or a network."""
    with pytest.raises(ValidationError):
        ApiSettings(**setting)


async def test_every_answer_is_private(tmp_path: Path) -> None:
    """Those of unknown paths and methods too."""
    async with replica(api.new_log(), tmp_path) as started:
        for method, path in (("GET", "/nothing"), ("PUT", "/v1/items"), ("GET", "/v1/users/a%2Fb/profile"), ("GET", "/livez")):
            answer = await started.client.request(method, path)
            assert answer.headers["Cache-Control"] == "private, no-cache"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@asynccontextmanager
async def served(running: Replica, **changes: Any) -> AsyncIterator[str]:
    """Serves on a port; gives the URL."""
    own = running.parts.api.settings.model_copy(update=changes)
    lines: list[str] = []
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(msgspec.structs.replace(running.parts.api, settings=own), Metrics(), stop, lines.append))
    try:
        async with asyncio.timeout(10):
            while not lines and not serving.done():
                await asyncio.sleep(0.01)
        if serving.done():
            await serving
        yield lines[0].rsplit(" ", 1)[1]
    finally:
        stop.set()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize(
    ("proxies", "statuses"),
    [
        (("127.0.0.0/8",), [401, 401, 401]),  # each client has a bucket of its own
        ((), [401, 429, 429]),  # the header is anybody's word
        (("10.0.0.0/8",), [401, 429, 429]),
    ],
)
async def test_an_address_is_taken_from_trusted_proxies_alone(
    tmp_path: Path, proxies: tuple[str, ...], statuses: list[int]
) -> None:
    """The last address that no trusted proxy has written: what a client puts in front of it counts for nothing."""
    async with (
        replica(api.new_log(), tmp_path, failures_per_minute=1) as running,
        served(running, trusted_proxies=proxies) as url,
        httpx.AsyncClient() as client,
    ):
        found = [
            (await client.get(f"{url}/v1/items", headers={"X-Forwarded-For": f"1.1.1.1, 9.9.9.{number}"})).status_code
            for number in range(3)
        ]
        assert found == statuses
        if proxies == ("127.0.0.0/8",):
            again = await client.get(f"{url}/v1/items", headers={"X-Forwarded-For": "8.8.8.8, 9.9.9.0"})
            assert again.status_code == 429


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "tls.crt", folder / "tls.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*form))
    return paths


async def test_certificate_files_make_the_api_speak_tls(tmp_path: Path) -> None:
    """And nothing else on that port."""
    crt, key = certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(crt))
    async with (
        replica(api.new_log(), tmp_path / "store") as running,
        served(running, tls_certificate=crt, tls_key=key) as url,
        httpx.AsyncClient(verify=trust) as client,
    ):
        assert url.startswith("https://127.0.0.1:")
        assert (await client.get(f"{url}/livez")).text == "ok\n"
        with pytest.raises(httpx.TransportError):
            await client.get(f"{url.replace('https', 'http')}/livez")


async def test_certificate_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """Before the port is open: no API without the TLS that was asked for."""
    crt, key = certificate(tmp_path)
    async with replica(api.new_log(), tmp_path / "store") as running:
        for wrong in (
            {"tls_certificate": tmp_path / "none"},
            {"tls_certificate": crt},
            {"tls_certificate": key, "tls_key": crt},
            {"tls_key": key},
        ):
            with pytest.raises(IsthmusError, match=r"api\.tls_certificate"):
                async with served(running, **wrong):
                    pass


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (("crt",), r"its key \(api\.tls_key is not set: in the same file\) cannot be used"),
        (("crt", "locked"), r"cannot be used .*: check both files, that they belong together, and that the key has no password"),
        ((None, "key"), r"api\.tls_key is set without api\.tls_certificate: plain HTTP would be served"),
    ],
)
def test_the_api_says_what_is_wrong_with_its_certificate_before_it_asks_a_broker(
    tmp_path: Path, named: tuple[str | None, ...], words: str
) -> None:
    """There is none here. A key with a password is refused, too, instead of a question on the terminal."""
    crt, key = certificate(tmp_path)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked").write_bytes(loaded.private_bytes(*form))
    paths = {"crt": crt, "key": key, "locked": tmp_path / "locked"}
    options = zip(("ISTHMUS_API__TLS_CERTIFICATE", "ISTHMUS_API__TLS_KEY"), named, strict=False)
    variables = {name: str(paths[one]) for name, one in options if one}
    ended = CliRunner().invoke(app, ["api", "--bootstrap", "127.0.0.1:9"], env=variables)
    assert isinstance(ended.exception, IsthmusError), ended.output
    assert re.search(words, str(ended.exception))


async def test_an_insecure_api_asks_for_no_key_and_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Everybody may do everything; pages of other sites may not, nor a foreign name that DNS points at loopback."""
    async with replica(api.new_log(), tmp_path) as running:
        open_to_all = msgspec.structs.replace(running.parts.api, insecure=True)
        app = make_app(open_to_all, Metrics())
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            assert (await client.get("/v1/items")).status_code == 200
            assert (await client.delete("/v1/users/u")).status_code == 202
            assert (await client.get("/v1/me/recommendations")).status_code == 401
            for headers in ({"Origin": SHOP}, {"Origin": "null"}, {"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}):
                assert (await client.get("/v1/items", headers=headers)).status_code == 403
        caplog.set_level(logging.WARNING)
        stop = asyncio.Event()
        stop.set()
        await serve(open_to_all, Metrics(), stop)
    assert "--insecure" in caplog.text
