"""Settings of the connections to Kafka and to a schema registry, and what all sections of settings are made of.

What does not go together is refused here, with what to write instead: a client would ignore it, or fail without a reason.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from stream.variables import FROM_FILE, PREFIX

CACHE: Final = Path(os.path.expanduser("~")) / ".cache" / "isthmus"  # noqa: PTH111  (pathlib's twin raises where there is no home)
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]


def _local(value: Any) -> Any:
    if isinstance(value, str) and "://" in value:
        raise ValueError("this is a path on this machine and cannot be a URL; of all settings only registry.folder takes one")
    return value


LocalPath = Annotated[Path, BeforeValidator(_local)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _nothing(value: Any) -> Any:
    """Takes an empty value for none: compose files hand over `${NAME:-}`."""
    return None if value == "" else value


OptionalText = Annotated[str | None, BeforeValidator(_nothing)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_nothing)]
OptionalFile = Annotated[LocalPath | None, BeforeValidator(_nothing)]


class KafkaSettings(Section):
    bootstrap: str = Field("127.0.0.1:9092", description="host:port of one or more brokers, comma-separated")
    dev: bool = Field(False, description="whether there is only one broker: topics get replication 1")
    compression: Compression = Field(
        "zstd",
        description="compression of what Isthmus sends: none, gzip, snappy, lz4, zstd; brokers keep and replicate it so. Consumers "
        "older than Kafka 2.1 cannot read zstd",
    )
    security_protocol: SecurityProtocol = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL (TLS, optionally with a client certificate), SASL_PLAINTEXT or SASL_SSL"
    )
    sasl_mechanism: Annotated[SaslMechanism | None, BeforeValidator(_nothing)] = Field(
        None, description="with SASL: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 (all with username and password) or OAUTHBEARER"
    )
    username: OptionalText = Field(None, description="user name of PLAIN and SCRAM")
    password: OptionalSecret = Field(None, description="password of PLAIN and SCRAM")
    ca_file: OptionalFile = Field(
        None, description="PEM file with the authorities that sign the brokers' certificates; none: the system's"
    )
    certificate_file: OptionalFile = Field(None, description="PEM file with our certificate chain, for mutual TLS")
    key_file: OptionalFile = Field(None, description="PEM file with the certificate's key; none: it is in certificate_file")
    key_password: OptionalSecret = Field(None, description="password of the key, if it is encrypted")
    token_url: OptionalText = Field(None, description="OAUTHBEARER: where tokens are fetched, with the client credentials grant")
    client_id: OptionalText = Field(None, description="OAUTHBEARER: our id at the token server")
    client_secret: OptionalSecret = Field(None, description="OAUTHBEARER: our secret at the token server")
    scope: OptionalText = Field(None, description="OAUTHBEARER: scopes to ask for, separated by spaces")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problem = _security_problem(self)
        if problem is not None:
            raise ValueError(problem)
        return self


def _security_problem(kafka: KafkaSettings) -> str | None:
    """Says what to write instead of security settings that do not go together."""
    if kafka.security_protocol.startswith("SASL") and kafka.sasl_mechanism is None:
        return f"security_protocol {kafka.security_protocol} needs sasl_mechanism: {', '.join(get_args(SaslMechanism))}"
    return _unused(kafka) or _missing(kafka)


def _unused(kafka: KafkaSettings) -> str | None:
    protocol, mechanism = kafka.security_protocol, kafka.sasl_mechanism
    is_sasl, is_tls, is_token = protocol.startswith("SASL"), protocol.endswith("SSL"), mechanism == "OAUTHBEARER"
    uses = {
        ("sasl_mechanism",): (is_sasl, "security_protocol SASL_SSL or SASL_PLAINTEXT"),
        ("ca_file", "certificate_file", "key_file", "key_password"): (is_tls, "security_protocol SSL or SASL_SSL"),
        ("username", "password"): (is_sasl and not is_token, "SASL with sasl_mechanism PLAIN or SCRAM"),
        ("token_url", "client_id", "client_secret", "scope"): (is_sasl and is_token, "SASL with sasl_mechanism OAUTHBEARER"),
    }
    now = f"security_protocol {protocol}" + (f" and sasl_mechanism {mechanism}" if is_sasl else "")
    for names, (is_used, wanted) in uses.items():
        unused = [name for name in names if getattr(kafka, name) is not None and not is_used]
        if unused:
            return f"{' and '.join(unused)} would not be used with {now}: set {wanted}, or leave {' and '.join(unused)} out"
    return None


def _missing(kafka: KafkaSettings) -> str | None:
    needed: tuple[str, ...] = ()
    if kafka.sasl_mechanism is not None:
        is_token = kafka.sasl_mechanism == "OAUTHBEARER"
        needed = ("token_url", "client_id", "client_secret") if is_token else ("username", "password")
    missing = [name for name in needed if getattr(kafka, name) is None]
    if missing:
        by_file = f"{PREFIX}KAFKA__{missing[-1].upper()}{FROM_FILE}"
        return f"sasl_mechanism {kafka.sasl_mechanism} needs {' and '.join(missing)} too; a secret may be a file: {by_file}"
    if kafka.certificate_file is None and (kafka.key_file is not None or kafka.key_password is not None):
        return "key_file and key_password need certificate_file: the certificate that the key belongs to"
    if kafka.token_url is not None and not kafka.token_url.startswith(("https://", "http://")):
        return "token_url must begin with https:// (with http:// the network can read the secret)"
    return None


class SchemaRegistrySettings(Section):
    url: OptionalText = Field(
        None, description="URL of a schema registry with Confluent's API, for topics that `[formats]` declares other than JSON"
    )
    username: OptionalText = Field(None, description="user name at the registry (HTTP basic authentication)")
    password: OptionalSecret = Field(None, description="password at the registry")
    ca_file: OptionalFile = Field(
        None, description="PEM file with the authorities that sign the registry's certificate; none: the system's"
    )
    certificate_file: OptionalFile = Field(None, description="PEM file with our certificate chain, for mutual TLS")
    key_file: OptionalFile = Field(None, description="PEM file with the certificate's key; none: it is in certificate_file")
    key_password: OptionalSecret = Field(None, description="password of the key, if it is encrypted")
    timeout_s: float = Field(5, gt=0, le=60, description="for the registry to answer; it is asked again after that")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problem = _registry_problem(self)
        if problem is not None:
            raise ValueError(problem)
        return self


def _registry_problem(registry: SchemaRegistrySettings) -> str | None:
    """Says what to write instead of settings of the registry that do not go together."""
    files = [name for name in ("ca_file", "certificate_file", "key_file", "key_password") if getattr(registry, name) is not None]
    if registry.url is None:
        given = [name for name in ("username", "password", *files) if name in files or getattr(registry, name) is not None]
        return f"{' and '.join(given)} would not be used without url" if given else None
    if not re.match(r"https?://[^/@\s]+(/[^@\s]*)?$", registry.url):
        return "url must be https://host:port, or http://, with neither user nor password in it: set username and password"
    if files and not registry.url.startswith("https://"):
        return f"{' and '.join(files)} would not be used with http://: begin url with https://, or leave {' and '.join(files)} out"
    if (registry.username is None) != (registry.password is None):
        return "username and password need each other; the password may be a file: ISTHMUS_SCHEMA_REGISTRY__PASSWORD_FILE"
    if registry.certificate_file is None and (registry.key_file is not None or registry.key_password is not None):
        return "key_file and key_password need certificate_file: the certificate that the key belongs to"
    return None
