"""A token server for tests: the client credentials grant over HTTP, with unsecured JWTs (RFC 7519, section 6), which it counts."""

import base64
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote_plus

SECRET = "token-server-secret"


class TokenServer:
    """Gives tokens that live `life_s` to every client that knows `SECRET`; the client's id is the principal.

    Attributes:
        given: How many tokens each client has got.
    """

    def __init__(self, life_s: float = 3_600) -> None:
        self.life_s = life_s
        self.given: Counter[str] = Counter()
        tokens = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status, answer = tokens.answer(self.headers.get("Authorization", ""), body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                """Nothing: the test reports."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def answer(self, authorization: str, body: str) -> tuple[int, dict[str, object]]:
        name, _, secret = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        if unquote_plus(secret) != SECRET or "grant_type=client_credentials" not in body:
            return 401, {"error": "invalid_client", "error_description": authorization}
        self.given[unquote_plus(name)] += 1
        return 200, {"access_token": self._token(unquote_plus(name)), "token_type": "Bearer", "expires_in": self.life_s}

    def _token(self, name: str) -> str:
        now = time.time()
        claims = {"sub": name, "iat": now, "exp": now + self.life_s}
        parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "none"}, claims)]
        return f"{parts[0]}.{parts[1]}."

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
