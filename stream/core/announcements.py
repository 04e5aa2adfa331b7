"""Announcements of model versions by trainers to workers (topic `models`, compacted, key = role).

Whoever may write to this topic decides every list. With a key, announcements are signed (HMAC with SHA-256, RFC 2104), and readers
refuse those that are not.
"""

import hashlib
import hmac
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from stream.core.outputs import Role
from stream.core.parsing import UNUSABLE

_Short = Annotated[str, Meta(max_length=200)]
_CONTEXT: Final = "isthmus model announcement 1"
"""What the signature is for: one key must not vouch for something else that is signed with it."""
_SIGNED: Final = ("application", "role", "name", "version", "uri", "sha256", "published_at")


class ModelAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """Which model version plays a role.

    Attributes:
        role: The role; also the record's key.
        name: System.
        version: Model version.
        uri: Model folder, as fsspec opens it.
        sha256: Hash of the folder's manifest (`models.artifact`).
        published_at: When it was announced, ms.
        application: The application whose model it is; absent: not signed.
        signature: HMAC-SHA256 of all other fields, in hexadecimal; absent: not signed.
    """

    role: Role
    name: _Short
    version: _Short
    uri: Annotated[str, Meta(max_length=2_048)]
    sha256: _Short
    published_at: int
    application: _Short | UnsetType = UNSET
    signature: _Short | UnsetType = UNSET


class AnnouncementTrust(NamedTuple):
    """Whose announcements count.

    Attributes:
        application: The application that announces.
        keys: The first signs, each verifies; none: announcements need no signature.
    """

    application: str
    keys: tuple[bytes, ...] = ()


UNSIGNED: Final = AnnouncementTrust("")
"""Every announcement counts: no key is set."""


class RefusedAnnouncement(NamedTuple):
    """Why a record of `models` is not followed: `announcement` if it is none, `signature` if nobody with a key vouches for it."""

    reason: Literal["announcement", "signature"]
    text: str


encode_announcement: Final = msgspec.json.Encoder().encode
decode_announcement: Final = msgspec.json.Decoder(ModelAnnouncement).decode


def signed(announcement: ModelAnnouncement, trust: AnnouncementTrust) -> ModelAnnouncement:
    """Returns the announcement with a signature; without a key, as it is."""
    if not trust.keys:
        return announcement
    ours = msgspec.structs.replace(announcement, application=trust.application)
    return msgspec.structs.replace(ours, signature=_signature(ours, trust.keys[0]))


def read_announcement(value: bytes, trust: AnnouncementTrust, role: Role = "champion") -> ModelAnnouncement | RefusedAnnouncement:
    """Returns what a record under the key `role` announces, or why that is refused."""
    try:
        announced = decode_announcement(value)
    except UNUSABLE as error:
        return RefusedAnnouncement("announcement", f"it cannot be read ({error})")
    if announced.role != role:
        return RefusedAnnouncement("announcement", f"it names the role {announced.role} under the key {role}")
    problem = _signature_problem(announced, trust)
    return announced if problem is None else RefusedAnnouncement("signature", problem)


def _signature_problem(announced: ModelAnnouncement, trust: AnnouncementTrust) -> str | None:
    if not trust.keys:
        return None
    if announced.signature is UNSET:
        return "it is not signed, and registry.announcement_keys is set"
    if announced.application != trust.application:
        return f"it is signed for another application than {trust.application}"
    given = announced.signature.encode(errors="replace")
    if not any(hmac.compare_digest(given, _signature(announced, key).encode()) for key in trust.keys):
        return f"it is signed with none of registry.announcement_keys, or was changed (version {announced.version!r})"
    return None


def _signature(announcement: ModelAnnouncement, key: bytes) -> str:
    content = msgspec.json.encode([_CONTEXT, *(getattr(announcement, name) for name in _SIGNED)])
    return hmac.new(key, content, hashlib.sha256).hexdigest()
