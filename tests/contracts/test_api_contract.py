"""The API against its own OpenAPI document, in process: schemathesis makes the requests."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from stream.api.api_keys import Scope, encode_api_key, make_api_key
from stream.api.app import make_app
from stream.api.rocksdb_store import RocksDBStore
from stream.api.user_tokens import UserToken, sign_token
from stream.core.events import Item
from stream.core.ranking import Catalogue
from stream.kafka.cluster.event_sink import OutgoingEvent
from stream.kafka.embedded.log_reader import EmbeddedLogReader
from stream.metrics import Metrics
from stream.services.api import make_parts
from tests import api

DOCUMENT = json.loads((Path(__file__).parents[2] / "deploy" / "openapi.json").read_text())
EXAMPLES = int(os.environ.get("API_EXAMPLES", "15"))
LOOKED = settings(
    max_examples=EXAMPLES,
    stateful_step_count=8,
    derandomize="API_EXAMPLES" not in os.environ,  # the long form looks elsewhere each time
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Accepting:
    """Takes every event and keeps none."""

    async def send(self, events: Sequence[OutgoingEvent]) -> list[int | None]:
        return [api.NOW for _ in events]


def serving(app: Any) -> Callable[..., Any]:
    """The application, and its document under /openapi.json, which a replica does not serve."""

    async def both(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/openapi.json":
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(DOCUMENT).encode()})
        else:
            await app(scope, receive, send)

    return both


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A replica that needs no log: ready, with a catalogue and a key."""
    metrics, log = Metrics(), api.new_log()
    store = RocksDBStore(tmp_path_factory.mktemp("store"))
    parts = make_parts(
        api.settings(failures_per_minute=0, requests_per_s_of_a_user=0, guests=True),
        store,
        EmbeddedLogReader(log),
        Accepting(),
        metrics,
    )
    parts.follower.ready.set()
    parts.current.catalogue = Catalogue(Item(item, item) for item in api.ITEMS)
    secret, key = make_api_key("test", [Scope.ADMIN], api.NOW)
    parts.api.keys._add(encode_api_key(key))
    loaded = schemathesis.openapi.from_asgi("/openapi.json", serving(make_app(parts.api, metrics)))
    token = sign_token(parts.api.signer, UserToken("u", api.NOW, api.NOW + 3_600_000))
    return loaded, {True: {"Authorization": f"Bearer {token}"}, False: {"Authorization": f"Bearer {secret}"}}


OPERATIONS = [
    (path, method)
    for path, operations in DOCUMENT["paths"].items()
    for method in operations
    if not (method == "get" and path.endswith("/events"))  # a stream never ends
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_finds_an_answer_that_the_document_does_not_allow(served: Any, path: str, method: str) -> None:
    """No server error, no undocumented status, type or body; API_EXAMPLES=1000 looks longer. What a schema cannot say, that ids are
    bounded in bytes and events in time, may refuse a request that it allows.
    """

    schema, headers = served

    @LOOKED
    @given(case=schema[path][method].as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(headers=headers["/me/" in path], excluded_checks=[positive_data_acceptance])

    check()


def test_no_sequence_of_requests_finds_an_answer_that_the_document_does_not_allow(served: Any) -> None:
    """By the document's links: what one answer holds, the next request names, such as an erasure's time or a visitor's id."""
    schema, headers = served
    machine = schema.exclude(path_regex="/events$", method="GET").as_state_machine()

    class Sequence(machine):  # type: ignore[misc, valid-type]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": headers["/me/" in case.operation.path]}

        def validate_response(self, response: Any, case: Any, additional_checks: Any = None, **sent: Any) -> None:
            del additional_checks
            # Some requests break the document on purpose, and may all the same be right: unknown parameters are ignored.
            excluded = [positive_data_acceptance, negative_data_rejection]
            case.validate_response(response, excluded_checks=excluded, transport_kwargs=sent)

    Sequence.run(settings=LOOKED)


def test_the_document_is_openapi() -> None:
    """3.1, and every schema of it is a JSON Schema."""
    assert DOCUMENT["openapi"].startswith("3.1")
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
