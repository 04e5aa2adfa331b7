"""A receiver of webhooks on loopback, for the sink's tests and chaos cases."""

import base64
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
TAKEN, TAKEN_UNANSWERED = 204, 0
LISTS, ERASED, RECONCILED = "recommendations.updated", "user.erased", "recommendations.reconciled"


class Endpoint:
    """A receiver on loopback: checks each signature, and answers what `decide` says of a message.

    `TAKEN_UNANSWERED` takes the message, and closes the connection before an answer. An answer has `headers`, and the `body`,
    as long as somebody reads it. `received` holds the headers of each request.
    """

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.attempts: Counter[str] = Counter()
        self.decide: Callable[[dict[str, Any]], int] = lambda _: TAKEN
        self.headers: dict[str, str] = {}
        self.body: Iterable[bytes] | None = None
        self.received: list[dict[str, str]] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                message = Webhook(SECRET).verify(body, dict(self.headers))
                endpoint.attempts[self.headers["webhook-id"]] += 1
                endpoint.received.append({name.lower(): value for name, value in self.headers.items()})
                status = endpoint.decide(message)
                if status == TAKEN_UNANSWERED or 200 <= status < 300:
                    endpoint.taken.append({**message, "id": self.headers["webhook-id"]})
                if status != TAKEN_UNANSWERED:
                    self._answer(status)

            def _answer(self, status: int) -> None:
                self.send_response_only(status)
                length = {"content-length": "0"} if endpoint.body is None else {}
                for name, value in {**length, **endpoint.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):  # nobody reads it any more
                    for part in endpoint.body or ():
                        self.wfile.write(part)

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
        """Returns the data of accepted messages with lists."""
        return [message["data"] for message in self.taken if message["type"] == LISTS]

    def lists(self) -> dict[str, list[str]]:
        """Returns the lists of a receiver that follows the messages: user -> items."""
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


def out_of_order(messages: Sequence[dict[str, Any]]) -> list[str]:
    """Describes messages that go back further in a pass over a partition than a crash allows.

    A message is posted once the position is past the one before it. So after a crash a partition may be sent again from the end of
    the last message but one, cut into other messages. What a replay sends is left out.
    """
    found: list[str] = []
    kept: dict[str, tuple[int, int]] = {}  # the pass -> its position, and the end of its last message
    for message in messages:
        prefix, *one_pass, _, _ = message["id"].split("-") if message["type"] != RECONCILED else ("", "", "")
        if prefix != "lists":
            continue
        place, data = "-".join(one_pass), message["data"]
        offsets = [data["offset"]] if message["type"] == ERASED else [one["offset"] for one in data["lists"]]
        position, end = kept.get(place, (0, 0))
        if min(offsets) >= end:
            position = end
        elif min(offsets) < position:
            found.append(f"offset {min(offsets)} of {place} (epoch, partition, pass) came after {end}")
        kept[place] = position, max(offsets) + 1
    return found


def webhook_variables(bootstrap: str, endpoint: Endpoint, partitions: int) -> Mapping[str, str]:
    """Returns the environment of a sink's process, which gives up lists after half a second."""
    return {
        "ISTHMUS_KAFKA__BOOTSTRAP": bootstrap,
        "ISTHMUS_TOPICS__PARTITIONS": str(partitions),
        "ISTHMUS_WEBHOOK__URL": endpoint.url,
        "ISTHMUS_WEBHOOK__SECRETS": f'["{SECRET}"]',
        "ISTHMUS_WEBHOOK__FIRST_PAUSE_S": "0.05",
        "ISTHMUS_WEBHOOK__GIVE_UP_S": "0.5",
        "ISTHMUS_WEBHOOK__BATCH_LISTS": "20",
    }
