"""Asks a schema registry over the part of Confluent's REST API that others speak too (Apicurio's `ccompat`, Karapace, Redpanda).

Source: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from collections.abc import Mapping
from http import HTTPStatus
from threading import Lock
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import msgspec

from stream.connection_settings import SchemaRegistrySettings
from stream.errors import IsthmusError
from stream.tls import client_context

_ACCEPTED: Final = "application/vnd.schemaregistry.v1+json, application/json"
_NO_SUCH_SCHEMA: Final = 40403
_LARGEST: Final = 16 << 20
_MOST_REFERENCES: Final = 1_000
JSON_TYPE: Final = "JSON"
DEFAULT_TYPE: Final = "AVRO"
"""The type of a schema whose answer names none."""


class RegistryError(IsthmusError):
    """The registry is away, refuses us, or answers what no registry does. It may be asked again."""


class UnknownSchemaError(IsthmusError):
    """The registry says that there is no schema with an id."""


class UnusableSchemaError(IsthmusError):
    """The registry has a schema that nobody should read: it refers to itself in a circle, or to too many others.

    Attributes:
        type: AVRO or PROTOBUF.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.type = kind


class Reference(NamedTuple):
    """A schema that another one refers to.

    Attributes:
        name: What it is called there: a full name in Avro, an import in Protobuf.
        text: The schema.
    """

    name: str
    text: str


class RegisteredSchema(msgspec.Struct, frozen=True):
    """A schema with all that it refers to.

    Attributes:
        type: AVRO, JSON or PROTOBUF.
        text: The schema.
        references: Direct and indirect ones, each before those that refer to it.
    """

    type: str
    text: str
    references: tuple[Reference, ...] = ()


class _Named(msgspec.Struct):
    name: str
    subject: str
    version: int


class _Answer(msgspec.Struct, rename="camel"):
    """The registry's answer to a question for a schema."""

    schema: str
    schema_type: str = DEFAULT_TYPE
    references: tuple[_Named, ...] | None = None


class _Registered(msgspec.Struct):
    id: int


class SchemaRegistry:
    """A client of one registry. May be used from several threads; it neither repeats nor keeps anything."""

    def __init__(self, settings: SchemaRegistrySettings) -> None:
        assert settings.url is not None
        self.url = settings.url.rstrip("/")
        self._settings = settings
        self._client: httpx.Client | None = None
        self._lock = Lock()

    def schema(self, schema_id: int) -> RegisteredSchema:
        """Returns a schema and what it refers to.

        Raises:
            UnknownSchemaError: the registry has no schema with this id.
            UnusableSchemaError: what it refers to has no end.
            RegistryError: it does not say.
        """
        answer = self._schema_at(f"/schemas/ids/{schema_id}")
        is_needed = answer.schema_type != JSON_TYPE  # what a JSON schema refers to is not needed to read
        return RegisteredSchema(answer.schema_type, answer.schema, tuple(self._references(answer)) if is_needed else ())

    def _references(self, schema: _Answer) -> list[Reference]:
        """What a schema refers to, depth first. A name that is known is not followed again. A registry should allow no circles."""
        found: dict[str, Reference] = {}
        opened: dict[str, _Answer] = {}
        left = [iter(schema.references or ())]
        while left:
            named = next(left[-1], None)
            if named is None:
                left.pop()
                if left:  # the innermost is done; the outermost is the schema itself
                    name, answer = opened.popitem()
                    found[name] = Reference(name, answer.schema)
            elif named.name in opened:
                raise UnusableSchemaError(schema.schema_type, f"it refers to {named.name[:100]} in a circle")
            elif named.name not in found:
                if len(found) + len(opened) >= _MOST_REFERENCES:
                    raise UnusableSchemaError(schema.schema_type, f"it refers to more than {_MOST_REFERENCES} others")
                path = f"/subjects/{quote(named.subject, safe='')}/versions/{named.version}?deleted=true"
                opened[named.name] = self._schema_at(path)
                left.append(iter(opened[named.name].references or ()))
        return list(found.values())

    def register(self, subject: str, schema: str) -> int:
        """Registers an Avro schema, unless the subject has it; returns its id.

        Raises:
            RegistryError: the registry does not take it.
        """
        path = f"/subjects/{quote(subject, safe='')}/versions"
        answer: _Registered = self._decoded(self._ask("POST", path, {"schema": schema}), _Registered)
        return answer.id

    def subjects(self) -> list[str]:
        """Returns the names of all subjects.

        Raises:
            RegistryError: the registry does not say.
        """
        names: list[str] = self._decoded(self._ask("GET", "/subjects"), list[str])
        return names

    def _schema_at(self, path: str) -> _Answer:
        answer: _Answer = self._decoded(self._ask("GET", path), _Answer)
        return answer

    def _decoded(self, content: bytes, kind: Any) -> Any:
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.MsgspecError:
            raise self._strange("what it answers is no registry's answer") from None

    def _ask(self, method: str, path: str, document: Mapping[str, str] | None = None) -> bytes:
        try:
            with self.open().stream(method, f"{self.url}{path}", json=document) as answer:
                content = b""
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > _LARGEST:
                        raise self._strange(f"it answers more than {_LARGEST} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise RegistryError(f"the schema registry at {self.url} does not answer ({_words(error)})") from None
        if answer.status_code != HTTPStatus.OK:
            raise self._refusal(answer.status_code, content)
        return content

    def open(self) -> httpx.Client:
        """Returns the client, made when it is first needed.

        Raises:
            IsthmusError: a file of the settings cannot be used.
        """
        with self._lock:
            if self._client is None:
                own = self._settings
                secret = None if own.password is None else own.password.get_secret_value()
                self._client = httpx.Client(
                    verify=client_context(own, "schema_registry") if self.url.startswith("https://") else True,
                    auth=None if own.username is None or secret is None else (own.username, secret),
                    timeout=own.timeout_s,
                    follow_redirects=False,  # one would send our password to another address
                    headers={"accept": _ACCEPTED, "user-agent": "isthmus"},
                )
            return self._client

    def _refusal(self, status: int, content: bytes) -> IsthmusError:
        """The error for an answer other than 200. Only the registry itself can deny a schema: a proxy may answer 404 too."""
        code = _error_code(content)
        if status == HTTPStatus.NOT_FOUND and code == _NO_SUCH_SCHEMA:
            return UnknownSchemaError(f"the schema registry at {self.url} has no such schema")
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            text = f"the schema registry at {self.url} refuses us ({status})"
            return RegistryError(f"{text}: check schema_registry.username and password, and what this user may do")
        if status == HTTPStatus.CONFLICT:
            text = f"the schema registry at {self.url} refuses a schema of ours: the subject has another that is not compatible"
            return RegistryError(f"{text}; name another topic (topics.flat_recommendations), or delete the subject")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code is not None:
            return RegistryError(f"the schema registry at {self.url} cannot answer now ({code or status})")
        return self._strange(f"it answers {code or status}")

    def _strange(self, what: str) -> RegistryError:
        return RegistryError(
            f"at {self.url} there seems to be no schema registry with Confluent's API ({what}): check schema_registry.url"
        )


def _error_code(content: bytes) -> int | None:
    try:
        code = msgspec.json.decode(content)["error_code"]
    except (msgspec.MsgspecError, TypeError, KeyError):
        return None
    return code if isinstance(code, int) else None


def _words(error: Exception) -> str:
    """What happened, in the words of the library, or else the name of its error."""
    return str(error) or type(error).__name__
