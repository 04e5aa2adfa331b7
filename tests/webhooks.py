"""A receiver of webhooks on loopback, for the sink's tests."""

import base64
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
LISTS, ERASED, RECONCILED = "recommendations.updated", "user.erased", "recommendations.reconciled"


class Endpoint:
    """A receiver on loopback: checks each signature, and answers what `decide` says of a message."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.attempts: Counter[str] = Counter()
        self.decide: Callable[[dict[str, Any]], int] = lambda _: 204
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                message = Webhook(SECRET).verify(body, dict(self.headers))
                endpoint.attempts[self.headers["webhook-id"]] += 1
                status = endpoint.decide(message)
                if status == 204:
                    endpoint.taken.append(message)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its base's name)
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def kinds(self) -> list[str]:
        return [message["type"] for message in self.taken]

    def updates(self) -> list[dict[str, Any]]:
        """What was taken of lists."""
        return [message["data"] for message in self.taken if message["type"] == LISTS]

    def lists(self) -> dict[str, list[str]]:
        """What a receiver knows that does as the messages say: user -> items."""
        known: dict[str, tuple[str, int, list[str]]] = {}
        for message in self.taken:
            data = message["data"]
            if message["type"] == ERASED:
                known.pop(data["user_id"], None)
            elif message["type"] == RECONCILED:
                known = {user: one for user, one in known.items() if one[1] != data["partition"] or one[0] >= data["began_at"]}
            else:
                for one in data["lists"]:
                    items = [ranked["item"] for ranked in one["list"]["items"]]
                    known[one["list"]["user_id"]] = (message["timestamp"], data["partition"], items)
        return {user: items for user, (_, _, items) in known.items()}
