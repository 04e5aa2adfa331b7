"""The fold of the other contenders: what a team would write that needs lists from clicks without the guarantees of the step.

A click extends the user's session or starts one; the network ranks from the last 10 sessions. No late arrivals, duplicates, applied
offsets, purchases or post filter: never more work than the step. `kafka_streams/` has the same in Java.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from stream.core.limits import MINUTE_MS, WINDOW
from tests.benchmarks.load import ITEMS, TAGS
from tests.benchmarks.network import STEP

GAP_MS: Final = 30 * MINUTE_MS
HIDDEN: Final = 256
LENGTH: Final = 5
_PLACES: Final = {tag: place for place, tag in enumerate(TAGS)}
_CATALOGUE: Final = [ITEMS.index(item) for item in sorted(ITEMS)[:LENGTH]]


class BareClick(msgspec.Struct):
    event_id: str
    user_id: str
    occurred_at: int
    tags: list[str]


class BareState(msgspec.Struct, array_like=True):
    """The last 10 sessions as tag indices, the representation (float32) of all but the last, and the last list sent."""

    ended_at: int = 0
    sessions: list[list[int]] = []
    prefix: bytes = bytes(4 * HIDDEN)
    sent: list[int] = []


decode_click: Final = msgspec.json.Decoder(BareClick).decode
encode_state: Final = msgspec.msgpack.Encoder().encode
_decode_state: Final = msgspec.msgpack.Decoder(BareState).decode
_encode_json: Final = msgspec.json.Encoder().encode


def decode_state(stored: bytes | None) -> BareState:
    return BareState() if stored is None else _decode_state(stored)


class Bare:
    """Fold and network; without a model, lists follow the catalogue's order."""

    def __init__(self, model: str) -> None:
        self._session: Any = None
        if model:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            step = Path(model).parent / STEP
            self._session = onnxruntime.InferenceSession(str(step), options, providers=["CPUExecutionProvider"])

    def fold(self, state: BareState, click: BareClick) -> None:
        places = [_PLACES[tag] for tag in click.tags]
        if state.sessions and click.occurred_at < state.ended_at + GAP_MS:
            session = state.sessions[-1]
            session += [place for place in dict.fromkeys(places) if place not in session]
        else:
            self._begin(state, list(dict.fromkeys(places)))
        state.ended_at = click.occurred_at

    def _begin(self, state: BareState, places: list[int]) -> None:
        """Starts a session: adds the previous one to the prefix, or encodes the whole window again if it slides."""
        if state.sessions and self._session is not None:
            slides = len(state.sessions) == WINDOW
            row = np.zeros((1, HIDDEN), dtype=np.float32) if slides else _rows([state])
            for session in state.sessions[1:] if slides else state.sessions[-1:]:
                row = self._run([session], row)[0]
            state.prefix = row.tobytes()
        state.sessions = [*state.sessions[-WINDOW + 1 :], places]

    def lists(self, states: Sequence[BareState]) -> list[list[tuple[int, float]] | None]:
        """Returns the indices and scores of the top 5 for each state, or None if the list is unchanged; remembers it."""
        if self._session is None:
            best: Any = [_CATALOGUE] * len(states)
            values: Any = [[0.0] * LENGTH] * len(states)
        else:
            scores = self._run([state.sessions[-1] for state in states], _rows(states))[1]
            order = np.argsort(-scores, axis=1, kind="stable")[:, :LENGTH]
            best, values = order.tolist(), np.take_along_axis(scores, order, axis=1).tolist()
        lists: list[list[tuple[int, float]] | None] = []
        for state, places, row in zip(states, best, values, strict=True):
            lists.append(None if places == state.sent else list(zip(places, row, strict=True)))
            state.sent = places
        return lists

    def _run(self, sessions: Sequence[Sequence[int]], rows: Any) -> Any:
        tags = np.zeros((len(sessions), len(TAGS)), dtype=np.float32)
        for row, session in enumerate(sessions):
            tags[row, session] = 1.0
        return self._session.run(None, {"tags": tags, "h": rows})


def _rows(states: Sequence[BareState]) -> Any:
    return np.frombuffer(b"".join([state.prefix for state in states]), dtype="<f4").reshape(len(states), HIDDEN)


def recommendation(click: BareClick, ranked: Sequence[tuple[int, float]], at_ms: int) -> dict[str, Any]:
    """Returns the output record, with the fields of a recommendation that apply here."""
    return {
        "user_id": click.user_id,
        "occurred_at": at_ms,
        "caused_by": {"event_id": click.event_id, "type": "click", "occurred_at": click.occurred_at},
        "model": {"name": "latent_feature", "version": "1"},
        "items": [
            {"item": ITEMS[place], "rank": rank, "score": round(score, 4)} for rank, (place, score) in enumerate(ranked, start=1)
        ],
    }


def encoded(click: BareClick, ranked: Sequence[tuple[int, float]], at_ms: int) -> bytes:
    return _encode_json(recommendation(click, ranked, at_ms))
