"""What a trainer tells the workers: which model version plays which role (topic `models`, compacted, key = role)."""

from typing import Final

import msgspec

from stream.core.outputs import Role


class ModelAnnouncement(msgspec.Struct, frozen=True, kw_only=True):
    """`uri` is a folder that fsspec can open; `sha256` is the hash of its manifest (`models.artifact`). `published_at` in ms."""

    role: Role
    name: str
    version: str
    uri: str
    sha256: str
    published_at: int


encode_announcement: Final = msgspec.json.Encoder().encode
decode_announcement: Final = msgspec.json.Decoder(ModelAnnouncement).decode
