"""The messages of the webhook sink, and how they are signed (Standard Webhooks, https://www.standardwebhooks.com)."""

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
        offset: Its place in the partition: of two lists of a user the one with the higher offset holds.
        list: The recommendation, as the topic holds it.
    """

    offset: int
    list: msgspec.Raw


class Updated(msgspec.Struct, frozen=True):
    """Lists that are new, or sent again.

    Attributes:
        epoch: Identifies one life of the topic; offsets of different epochs cannot be compared.
        partition: Partition of all these users.
        lists: At most one of each user.
    """

    epoch: int
    partition: int
    lists: tuple[SentList, ...]


class Erased(msgspec.Struct, frozen=True):
    """A user whose list must be deleted.

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
    """A partition was sent whole: what was not sent since `began_at` must be deleted.

    Attributes:
        epoch: As in `Updated`.
        partition: The partition.
        began_at: What has an older `timestamp` was not sent again, RFC 3339.
    """

    epoch: int
    partition: int
    began_at: str


class Message(msgspec.Struct, frozen=True):
    """The body of a request.

    Attributes:
        type: What it says.
        timestamp: When it was made, RFC 3339.
        data: The rest.
    """

    type: Kind
    timestamp: str
    data: Updated | Erased | Reconciled


encode_message: Final = msgspec.json.Encoder().encode


def time_text(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Signer:
    """Signs with each of the secrets: a receiver that knows one of them accepts the message, while another replaces it."""

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets:
            raise IsthmusError(
                "setting webhook.secrets (ISTHMUS_WEBHOOK__SECRETS) is empty: receivers must be able to check messages"
            )
        self._webhooks = [Webhook(_key(secret)) for secret in secrets]

    def headers(self, message_id: str, body: bytes, now: datetime) -> dict[str, str]:
        """The headers of one attempt. `now` is aware; each attempt has its own, because receivers refuse old ones."""
        text = body.decode()
        return {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(webhook.sign(message_id, now, text) for webhook in self._webhooks),
        }


def _key(secret: str) -> bytes:
    """The bytes of a secret.

    Raises:
        IsthmusError: it is none; the message does not hold it.
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
