"""The process's security as each client library takes it."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka.abc import AbstractTokenProvider as AsyncTokenProvider
from aiokafka.errors import KafkaConnectionError as AsyncConnectionError
from kafka.errors import KafkaConnectionError
from kafka.net.sasl.oauth import AbstractTokenProvider

from stream.kafka.cluster import reauthentication
from stream.kafka.cluster.security import current_security
from stream.kafka.cluster.tokens import TokenError, TokenSource


class _Tokens(AbstractTokenProvider):
    """Tokens for kafka-python."""

    def __init__(self, source: TokenSource) -> None:
        super().__init__()
        self._source = source

    def token(self) -> str:
        try:
            return self._source.token()
        except TokenError as error:
            raise KafkaConnectionError(str(error)) from error  # the client tries again


class _AsyncTokens(AsyncTokenProvider):
    """Tokens for aiokafka."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def token(self) -> str:
        try:
            return await asyncio.to_thread(self._source.token)
        except TokenError as error:
            raise AsyncConnectionError(str(error)) from error


def security_options() -> Mapping[str, Any]:
    """The security of kafka-python's clients."""
    security = current_security()
    tokens = {} if security.tokens is None else {"sasl_oauth_token_provider": _Tokens(security.tokens)}
    return {**security.options(), **tokens}


def async_security_options() -> Mapping[str, Any]:
    """The security of aiokafka's clients, which from now on authenticate again before their session ends."""
    security = current_security()
    if security.settings.sasl_mechanism is not None:
        reauthentication.install()
    tokens = {} if security.tokens is None else {"sasl_oauth_token_provider": _AsyncTokens(security.tokens)}
    return {**security.options(), **tokens}
