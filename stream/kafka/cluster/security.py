"""How this process identifies itself to Kafka, knows the brokers, and compresses what it sends: from the settings `[kafka]`.

It is set once, where settings are read, and every client of the process takes it (`stream.kafka.cluster.clients`). A process is one
principal, so a client cannot be made without it by forgetting an argument. Nothing here imports a client: commands start fast.
"""

import ssl
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from stream.connection_settings import KafkaSettings
from stream.errors import IsthmusError
from stream.kafka.cluster.tokens import TokenSource
from stream.tls import client_context


class Security:
    """What the settings say, as the clients take it. Files are read when the first client is made."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self.settings = kafka

    @property
    def is_on(self) -> bool:
        return self.settings.security_protocol != "PLAINTEXT"

    @property
    def compression(self) -> str | None:
        """The codec of the batches that this process sends, as both clients and Faust call it; None: they are not compressed."""
        return None if self.settings.compression == "none" else self.settings.compression

    @cached_property
    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS 1.2 or newer, with the broker's certificate and host name checked; None without TLS.

        Raises:
            IsthmusError: a file cannot be used.
        """
        return client_context(self.settings, "kafka") if self.settings.security_protocol.endswith("SSL") else None

    @cached_property
    def tokens(self) -> TokenSource | None:
        """Where tokens for OAUTHBEARER come from; None with any other mechanism."""
        kafka = self.settings
        if kafka.sasl_mechanism != "OAUTHBEARER" or kafka.token_url is None or kafka.client_secret is None:
            return None
        secret = kafka.client_secret.get_secret_value()
        return TokenSource(kafka.token_url, kafka.client_id or "", secret, kafka.scope, kafka.ca_file)

    @property
    def password(self) -> str | None:
        return None if self.settings.password is None else self.settings.password.get_secret_value()

    def options(self) -> Mapping[str, Any]:
        """What both clients call the same; `sasl_oauth_token_provider` is each client's own."""
        kafka = self.settings
        if not self.is_on:
            return {}
        options: dict[str, Any] = {"security_protocol": kafka.security_protocol, "ssl_context": self.ssl_context}
        if kafka.sasl_mechanism is not None:
            options["sasl_mechanism"] = kafka.sasl_mechanism
        if kafka.username is not None:
            options |= {"sasl_plain_username": kafka.username, "sasl_plain_password": self.password}
        return options


_current = Security(KafkaSettings())


def use_security(kafka: KafkaSettings) -> None:
    """Makes every client of this process from now on with these settings."""
    global _current  # noqa: PLW0603  (a process is one principal)
    _current = Security(kafka)


def current_security() -> Security:
    return _current


def require_plain_for_local_broker() -> None:
    """Raises IsthmusError if the settings are those of a secured broker: the local one is open."""
    if _current.is_on:
        protocol = _current.settings.security_protocol
        raise IsthmusError(
            f"kafka.security_protocol is {protocol}, and a local broker has no security: name your broker with --bootstrap, or "
            "unset the security settings of [kafka]"
        )
