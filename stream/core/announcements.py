"""Announcements of model versions by trainers to workers (topic `models`, compacted, key = role)."""

from typing import Final

import msgspec

from stream.core.outputs import Role


class ModelAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """Which model version plays a role.

    Attributes:
        role: The role; also the record's key.
        name: System.
        version: Model version.
        uri: Model folder, as fsspec opens it.
        sha256: Hash of the folder's manifest (`models.artifact`).
        published_at: When it was announced, ms.
    """

    role: Role
    name: str
    version: str
    uri: str
    sha256: str
    published_at: int


encode_announcement: Final = msgspec.json.Encoder().encode
decode_announcement: Final = msgspec.json.Decoder(ModelAnnouncement).decode
