"""What others send is read up to a bound and within a time, whatever size it states or has: answers over HTTP, and files."""

import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kafka.net.compat import KafkaNetClient

from stream.api.oidc import Oidc, Provider
from stream.core import limits
from stream.errors import IsthmusError
from stream.kafka.cluster import clients, tokens
from stream.kafka.cluster.tokens import TokenError, TokenSource
from stream.metrics import Metrics
from stream.services.metrics_reader import scrape
from stream.text.keywords import Keywords
from stream.text.model import EncoderFacts, TextModel, described, finish_folder, verified_hash
from training.datasets.example_file import ExampleFileError, read_examples

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
BOUND = 64 << 20
"""More than any reader takes; a server that has sent it was read too far."""


class Sender:
    """A server that answers anything with bytes without an end, and counts them."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.sent = 0
        self._parts = parts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/x"
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(65_536)
                for part in self._parts:
                    connection.sendall(part)
                    self.sent += len(part)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):  # the rest of the request: closing before it is read would reset the connection
                    pass

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`; closing alone does not
            self._listener.close()
            self._thread.join()


def endless(head: bytes = HEAD, part: bytes = b" " * 65_536) -> Iterator[bytes]:
    yield head
    for _ in range(BOUND // len(part)):
        yield part


def dripping(stop: threading.Event) -> Iterator[bytes]:
    """A byte now and then: no single wait for the network is long."""
    yield HEAD
    while not stop.wait(0.05):
        yield b" "


def source(url: str) -> TokenSource:
    return TokenSource(url, "app", "secret", None, None)


def test_an_endless_answer_of_a_token_server_is_not_read_on() -> None:
    sender = Sender(endless())
    with sender.running(), pytest.raises(TokenError, match="has more than 1048576 bytes"):
        source(sender.url).token()
    assert sender.sent < BOUND // 2


def test_a_token_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client of the process waits for its token."""
    monkeypatch.setattr(tokens, "TIMEOUT_S", 0.5)
    stop = threading.Event()
    sender = Sender(dripping(stop))
    with sender.running():
        try:
            with pytest.raises(TokenError, match="takes more than"):
                source(sender.url).token()
        finally:
            stop.set()


@pytest.mark.parametrize(
    "body",
    [
        b'{"access_token": 7}',
        b'{"access_token": "a\\u0001b"}',
        b'{"access_token": "a\\r\\nb"}',
        b'{"access_token": ""}',
        b"[" * 500_000,
        b"7",
        b"\xff",
    ],
)
def test_what_is_no_token_is_said_in_words(body: bytes) -> None:
    """It would end the field of a message to the broker, or Python's stack."""
    sender = Sender(iter([HEAD, body]))
    with sender.running(), pytest.raises(TokenError, match=r"check kafka\.token_url"):
        source(sender.url).token()


@pytest.mark.parametrize("life", ["NaN", "-1", "0", "null", '"soon"', "1e400", "[]"])
def test_a_life_that_no_token_has_does_not_keep_it_for_ever(life: str) -> None:
    """The broker would end its sessions, and nothing would renew it."""
    now = [0.0]
    for renewal in range(2):
        sender = Sender(iter([HEAD, b'{"access_token": "t%d", "expires_in": %s}' % (renewal, life.encode())]))
        with sender.running():
            of_server = TokenSource(sender.url, "app", "secret", None, None, lambda: now[0])
            first = of_server.token()
        now[0] += 90_000.0  # a day is over
        with pytest.raises(TokenError, match="gives no token"):
            of_server.token()
        assert first == f"t{renewal}"


def provider(jwks: str) -> tuple[Oidc, Metrics]:
    metrics = Metrics()
    return Oidc(Provider(jwks, "issuer", "audience", ("RS256",), "scope", ""), metrics, lambda: 0), metrics


async def test_endless_keys_of_an_identity_provider_are_not_read_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By URL and by file; the former ones stay, and the failure is counted."""
    sender = Sender(endless())
    oidc, metrics = provider(sender.url)
    with sender.running():
        await oidc.read()
    assert sender.sent < BOUND // 2
    with (tmp_path / "jwks.json").open("wb") as file:
        file.truncate(1 << 40)
    of_file, file_metrics = provider(str(tmp_path / "jwks.json"))
    await of_file.read()
    assert [one.total("api_jwks_reads", "failed") for one in (metrics, file_metrics)] == [1.0, 1.0]
    assert caplog.text.count("it has more than 1048576 bytes") == 2


async def test_an_identity_provider_that_drips_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A token with an unknown key waits for it."""
    monkeypatch.setattr("stream.api.oidc._TIMEOUT_S", 0.5)
    stop = threading.Event()
    sender = Sender(dripping(stop))
    oidc, _ = provider(sender.url)
    with sender.running():
        try:
            await oidc.read()
        finally:
            stop.set()
    assert "(TimeoutError): the former ones stay" in caplog.text


def test_endless_metrics_of_a_process_are_left_out() -> None:
    """The live page goes on with those of the others."""
    sender = Sender(endless(part=b"isthmus_live 1\n" * 4_096))
    with sender.running():
        assert scrape([sender.url]) == []
    assert sender.sent < BOUND // 2


def test_metrics_are_read_where_the_settings_say_and_nowhere_else() -> None:
    """A redirect would make the API ask any address of its network."""
    asked = Sender(iter([HEAD]))
    sender = Sender(iter([b"HTTP/1.1 302 Found\r\nLocation: %s\r\nConnection: close\r\n\r\n" % asked.url.encode()]))
    with asked.running(), sender.running():
        assert scrape([sender.url]) == []
        assert asked.sent == 0


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    for name in ("encoder.onnx", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    finish_folder(tmp_path, Keywords(["dog"], 2), EncoderFacts("onnx", 384, 256, "int8"))
    return tmp_path


def holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def linked(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "harm", "words"),
    [
        ("encoder.onnx", lambda path: path.write_bytes(b"another"), "has another encoder.onnx than its manifest says"),
        ("tokenizer.json", lambda path: path.write_bytes(b"{}"), "has another tokenizer.json than its manifest says"),
        ("encoder.onnx", holes, "has more than 1073741824 bytes"),
        ("keywords.txt", holes, "has more than 1073741824 bytes"),
        ("manifest.json", holes, "has more than 1073741824 bytes"),
        ("encoder.onnx", linked, "is no file"),
        ("manifest.json", lambda path: path.write_bytes(b"[" * 100_000), "cannot be read"),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace("384", "1e12")), "cannot be read"),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace("256", "-1")), "cannot be read"),
    ],
)
def test_a_text_model_is_loaded_only_as_its_manifest_says(
    text_model: Path, name: str, harm: Callable[[Path], None], words: str
) -> None:
    """By the encoder and the doctor; what is loaded are the bytes that were checked."""
    harm(text_model / name)
    for load in (TextModel, verified_hash):
        with pytest.raises(IsthmusError, match=words):
            load(text_model)


def test_a_network_that_is_none_is_refused_in_words(text_model: Path) -> None:
    """Its hash is right: somebody else made the folder."""
    assert described(text_model).endswith("(onnx, int8, 1 keywords)")
    with pytest.raises(IsthmusError, match="cannot be loaded"):
        TextModel(text_model)


@pytest.mark.parametrize("content", [b"\xff\xff\xff\xff", b"\xff\xff\xff\xff" + b"\x91" * 100_000, b"\x02\0\0\0\x81\xff"])
def test_the_length_in_a_file_of_examples_is_no_size_to_allocate(tmp_path: Path, content: bytes) -> None:
    """At most the largest record is read at once."""
    (tmp_path / "examples").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ExampleFileError, match="is not a file of training examples"):
            list(read_examples(tmp_path / "examples"))
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 4 * limits.RECORD_BYTES


def test_a_busy_machine_gives_no_warning_of_kafkas_client(caplog: pytest.LogCaptureFixture) -> None:
    """Every client has a bound that a step exceeds only if something is wrong; any pause exceeds the library's own."""

    async def paused() -> None:
        time.sleep(0.2)

    assert clients.SLOW_TASK_S >= 1
    for make, warns in ((KafkaNetClient, True), (clients._LOOP["kafka_client"], False)):
        net = make(bootstrap_servers="127.0.0.1:1")._net
        with caplog.at_level(logging.WARNING):
            net.run(paused)
        net.close()
        assert ("blocking the event loop" in caplog.text) == warns
        caplog.clear()
