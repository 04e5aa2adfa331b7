"""Messages of the webhook sink and their signatures (Standard Webhooks, https://www.standardwebhooks.com)."""

import base64
import binascii
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from standardwebhooks.webhooks import Webhook

from stream.errors import IsthmusError

SECRET_BYTES: Final = range(24, 65)
_PREFIX: Final = "whsec_"
Kind = Literal["recommendations.updated", "user.erased", "recommendations.reconciled"]


class SentList(msgspec.Struct, frozen=True):
    """One list.

    Attributes:
        offset: Offset in the partition. Of two lists of a user, the one with the higher offset is current.
        list: The recommendation as it is in the topic.
    """

    offset: int
    list: msgspec.Raw


class Updated(msgspec.Struct, frozen=True):
    """Lists that are new or sent again.

    Attributes:
        epoch: Identifies one life of the topic; offsets of different epochs cannot be compared.
        partition: Partition of all these users.
        lists: At most one per user.
    """

    epoch: int
    partition: int
    lists: tuple[SentList, ...]


class Erased(msgspec.Struct, frozen=True):
    """A user to delete.

    Attributes:
        epoch: As in `Updated`.
        partition: Partition of the user.
        offset: As in `SentList`.
        user_id: The user.
    """

    epoch: int
    partition: int
    offset: int
    user_id: str


class Reconciled(msgspec.Struct, frozen=True):
    """A partition was sent completely: delete what was not sent since `began_at`.

    Attributes:
        epoch: As in `Updated`.
        partition: The partition.
        began_at: Start of the pass, RFC 3339. Messages with an older `timestamp` are from before it.
    """

    epoch: int
    partition: int
    began_at: str


class Message(msgspec.Struct, frozen=True):
    """The body of a request.

    Attributes:
        type: Kind of message.
        timestamp: Time of the message, RFC 3339.
        data: Its content.
    """

    type: Kind
    timestamp: str
    data: Updated | Erased | Reconciled


encode_message: Final = msgspec.json.Encoder().encode


def time_text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Signer:
    """Signs with every secret, so that secrets can be rotated: a receiver needs to know only one."""

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise IsthmusError(
                "setting webhook.secrets (ISTHMUS_WEBHOOK__SECRETS) is empty: receivers must be able to check messages"
            )
        self._webhooks = [Webhook(_key(secret)) for secret in secrets]

    def headers(self, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """Returns the headers of one attempt. `now` is its time, with a time zone: receivers refuse old timestamps."""
        text = body.decode()
        return {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(webhook.sign(message_id, now, text) for webhook in self._webhooks),
        }


def _key(secret: str) -> bytes:
    """Decodes a secret.

    Raises:
        IsthmusError: it is malformed. The message does not show it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or len(key) not in SECRET_BYTES:
        raise IsthmusError(
            "setting webhook.secrets (ISTHMUS_WEBHOOK__SECRETS): a secret is whsec_ and the base64 of 24 to 64 random bytes, as "
            "`echo whsec_$(openssl rand -base64 32)` prints one"
        )
    return key
