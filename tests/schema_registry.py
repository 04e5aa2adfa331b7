"""The smallest server that speaks the documented API of a schema registry: what a real one cannot be made to do in a test.

Schemas by id with their references, basic authentication, and answers that come late or are wrong.
"""

import base64
import json
import ssl
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from stream.connection_settings import SchemaRegistrySettings
from stream.formats.registry import SchemaRegistry
from stream.formats.schemas import Schemas

CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"


class Registered(NamedTuple):
    subject: str
    type: str
    text: str
    references: Sequence[dict[str, Any]]


class FakeRegistry:
    """Ids begin at 1. It can be taken away and come back at the same address."""

    def __init__(self, user: tuple[str, str] | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.user = user
        self.tls = tls
        self.schemas: dict[int, Registered] = {}
        self.asked: list[str] = []
        self.answer: tuple[int, bytes] | None = None
        """What it answers to every question instead."""
        self._server: ThreadingHTTPServer | None = None
        self._port = 0

    def __enter__(self) -> Self:
        self.come()
        return self

    def __exit__(self, *_: object) -> None:
        self.go()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}" if self.tls is None else f"https://localhost:{self._port}"

    def come(self) -> None:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])))

            def _answer(self, document: bytes) -> None:
                status, content = registry._answer_to(self.path, self.headers.get("Authorization"), document)
                self.send_response(status)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def go(self) -> None:
        """Nobody listens at the address any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def add(self, schema: Any, subject: str = "s", kind: str = "AVRO", references: Sequence[tuple[str, str]] = ()) -> int:
        """Registers a schema, of Protobuf as text; `references` are names and subjects."""
        text = schema if kind == "PROTOBUF" else json.dumps(schema)
        named = [{"name": name, "subject": other, "version": 1} for name, other in references]
        self.schemas[len(self.schemas) + 1] = Registered(subject, kind, text, named)
        return len(self.schemas)

    def settings(self, **changes: Any) -> SchemaRegistrySettings:
        user = {} if self.user is None else {"username": self.user[0], "password": self.user[1]}
        return SchemaRegistrySettings(**{"url": self.url, "timeout_s": 2, **user, **changes})

    def client(self) -> SchemaRegistry:
        return SchemaRegistry(self.settings())

    def known(self) -> Schemas:
        """Schemas that nothing is kept of in a folder."""
        return Schemas(self.client(), None)

    def _registered(self, subject: str, text: str) -> int:
        known = [number for number, one in self.schemas.items() if (one.subject, one.text) == (subject, text)]
        return known[0] if known else self.add(json.loads(text), subject)

    def _answer_to(self, path: str, authorization: str | None, document: bytes) -> tuple[int, bytes]:
        self.asked.append(path)
        if self.answer is not None:
            return self.answer
        if self.user is not None and authorization != f"Basic {base64.b64encode(':'.join(self.user).encode()).decode()}":
            return 401, b'{"error_code":401,"message":"Unauthorized"}'
        found = self._found(path, document)
        missing = {"error_code": 40401 if path.startswith("/subjects") else 40403, "message": "not found"}
        return (404 if found is None else 200), json.dumps(missing if found is None else found).encode()

    def _found(self, path: str, document: bytes) -> Any:
        _, kind, *names = path.partition("?")[0].split("/")
        if kind == "schemas":
            one = self.schemas.get(int(names[-1]))
            return None if one is None else _document(one)
        if not names:
            return sorted({one.subject for one in self.schemas.values()})
        if document:
            return {"id": self._registered(names[0], json.loads(document)["schema"])}
        return next((_document(one) for one in self.schemas.values() if one.subject == names[0]), None)


def _document(one: Registered) -> dict[str, Any]:
    document: dict[str, Any] = {"schema": one.text}
    if one.type != "AVRO":
        document["schemaType"] = one.type
    if one.references:
        document["references"] = one.references
    return document
