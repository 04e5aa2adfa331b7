"""What lists rest on, as today's version says it: 0.1.0 counted interactions that no model read, and named no fallback for them.

The recordings of 0.1.0 are translated by these functions before they are compared. Everything else in them stays as recorded.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from stream.core.kept_interactions import KeptInteraction, KeptSession, kept_session_of
from stream.core.outputs import Output, decode_example, encode_example
from stream.core.ranking import Ranker, readable_by
from stream.core.state import Head, KeptPurchase, Prefix, decode_facts, decode_head, encode_state


def agrees(found: Any, expected: Any, recorded: Any) -> bool:
    """Whether a decoded record is as expected in every field that the recorded msgpack holds.

    Fields that were added at the end of a struct since then are left out; lists must be equally long. `expected` is decoded, or
    msgpack as `recorded` is.
    """
    if isinstance(found, msgspec.Struct):
        ours, theirs = _fields(found), _fields(expected)
        return min(len(ours), len(theirs)) >= len(recorded) and all(map(agrees, ours, theirs, recorded))
    if isinstance(found, (list, tuple)):
        return len(found) == len(expected) == len(recorded) and all(map(agrees, found, expected, recorded))
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(agrees(found[key], expected[key], recorded[key]) for key in found)
    return bool(found == expected)


def _fields(value: Any) -> Sequence[Any]:
    """The array that a struct is encoded as; an array as it is."""
    if not isinstance(value, msgspec.Struct):
        array: Sequence[Any] = value
        return array
    tag = value.__struct_config__.tag
    return [*([] if tag is None else [tag]), *(getattr(value, name) for name in value.__struct_fields__)]


def _by_content(interaction: KeptInteraction) -> KeptInteraction:
    """A session with clicks of one time in order of their content; earlier versions kept them in order of arrival."""
    if not isinstance(interaction, KeptSession):
        return interaction
    clicks = interaction.identified_clicks()
    if clicks == sorted(clicks):
        return interaction
    return kept_session_of(sorted(clicks), interaction.session_id, interaction.older_tags(), interaction.started_at)


def without_ownership(output: Output) -> Output:
    """A training example as 0.1.0 wrote it, without what the user owned and was not eligible for."""
    if output.value is None:
        return output
    example = msgspec.structs.replace(decode_example(output.value), owned=UNSET, ineligible=UNSET)
    return output._replace(value=encode_example(example))


def mark_example(kept: KeptPurchase) -> KeptPurchase:
    """A purchase that says whether an example was sent, in place of the hash of its content, of which there is more now."""
    return msgspec.structs.replace(kept, example=b"sent" if kept.example else b"")


class Translation:
    """Of the records that were made under these models."""

    def __init__(self, rankers: Mapping[str, Ranker]) -> None:
        self._by_fingerprint = {ranker.fingerprint: ranker for ranker in rankers.values()}
        self._by_name = {(ranker.name, ranker.version): ranker for ranker in rankers.values()}

    def state(self, key: bytes, value: bytes | None) -> bytes | None:
        """A state record: clicks of one time by content; of a head, the cached prefix's counts and the last list's fallback."""
        if value is not None and key[:1] == b"f":
            facts = decode_facts(value)
            facts.interactions = [_by_content(interaction) for interaction in facts.interactions]
            return encode_state(facts)
        if value is None or key[:1] != b"h":
            return value
        head = decode_head(value)
        if head.prefix is not None:
            head.prefix = self._prefix(head.prefix)
        last = head.last_list
        if last is not None and last.fingerprint and not self._is_read(head, last.fingerprint):
            head.last_list = msgspec.structs.replace(last, fallback="popularity")
        head.tail = [_by_content(interaction) for interaction in head.tail]
        return encode_state(head)

    def content(self, output: Output) -> dict[str, Any]:
        """A list without its id, which hashes the rest."""
        content: dict[str, Any] = json.loads(output.value or b"{}")
        content.pop("recommendation_id", None)
        if not content:
            return content
        ranker = self._by_name.get((content["model"]["name"], content["model"]["version"]))
        content["modalities"] = dict(zip(("session", "conversation"), _read(content["modalities"], ranker), strict=True))
        if not any(content["modalities"].values()):
            content.setdefault("fallback", "popularity")
        return content

    def _prefix(self, prefix: Prefix) -> Prefix:
        counts = {"session": prefix.sessions, "conversation": prefix.conversations}
        sessions, conversations = _read(counts, self._by_fingerprint.get(prefix.fingerprint))
        return msgspec.structs.replace(prefix, sessions=sessions, conversations=conversations)

    def _is_read(self, head: Head, fingerprint: str) -> bool:
        prefix = head.prefix
        in_prefix = prefix is not None and prefix.fingerprint == fingerprint and prefix.sessions + prefix.conversations > 0
        return in_prefix or bool(readable_by(self._by_fingerprint[fingerprint], head.tail))


def _read(counts: Mapping[str, int], ranker: Ranker | None) -> tuple[int, int]:
    if ranker is None:
        return 0, 0
    return counts["session"] * ranker.reads_sessions, counts["conversation"] * (ranker.text_model is not None)
