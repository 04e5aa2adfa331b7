"""The process's security as Faust takes it."""

from typing import Any

from faust.auth import Credentials, OAuthCredentials, SASLCredentials, SSLCredentials

from stream.kafka.cluster.client_security import async_security_options


def broker_credentials() -> Credentials | None:
    """Returns what Faust's consumers and producers identify themselves with; None for an open broker."""
    options: dict[str, Any] = dict(async_security_options())
    if not options:
        return None
    context = options["ssl_context"]
    if "sasl_mechanism" not in options:
        return SSLCredentials(context)
    if "sasl_oauth_token_provider" in options:
        return OAuthCredentials(oauth_cb=options["sasl_oauth_token_provider"], ssl_context=context)
    return SASLCredentials(
        username=options["sasl_plain_username"],
        password=options["sasl_plain_password"],
        ssl_context=context,
        mechanism=options["sasl_mechanism"],
    )
