"""Who makes a request: an API key, or a person whom an identity provider vouches for."""

from typing import Final

import msgspec

from stream.api.api_keys import ApiKey, ApiKeys, Scope


class Caller(msgspec.Struct, frozen=True):
    """Who makes a request.

    Attributes:
        name: For bounds: id of the key, or a hash of the person.
        scopes: What the caller may do.
        key: The API key; None: another credential.
        expires_at: When that other credential ends, ms; None: never.
        user_id: The user of the token that was sent along with a public key.
        subject: Whom the identity provider vouches for; None: no person.
    """

    name: str
    scopes: tuple[Scope, ...]
    key: ApiKey | None = None
    expires_at: int | None = None
    user_id: str | None = None
    subject: str | None = None

    @property
    def is_public(self) -> bool:
        return Scope.PUBLIC in self.scopes

    def allows(self, scope: Scope) -> bool:
        """Whether the caller has a scope. A public key is nothing else, whatever scopes stand beside it."""
        if self.is_public:
            return scope is Scope.PUBLIC
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def is_live(self, keys: ApiKeys, now_ms: int) -> bool:
        """Whether the credential may still be used."""
        if self.key is not None:
            return keys.is_live(self.key, now_ms)
        return self.expires_at is None or now_ms < self.expires_at


EVERYBODY: Final = Caller("everybody", (Scope.ADMIN,))
"""Whoever asks an API that was started with `--insecure`."""
