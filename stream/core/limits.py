"""Bounds of a user's state and of an event, which keep both small whatever users and producers do.

They are constants, not settings: a state written under one bound must be read under the same.
"""

from typing import Final

WINDOW: Final = 10  # interactions that a representation encodes (paper, section 3)
INTERACTIONS: Final = 20  # kept per user, so that training examples can be revised
CLICKS: Final = 64  # kept in order per session
SESSION_TAGS: Final = 255  # distinct tags per session: an index fits a byte
PARTS: Final = 8  # per conversation
PURCHASES: Final = 8
OWNED: Final = 1_000  # items kept of purchases that left the state, the newest
ELIGIBILITY_LISTS: Final = 4  # one for each time
EXAMPLE_IDS: Final = 256  # kept for erasure after their purchase left the state
ERASURES: Final = 8  # without a time, whose ids are known
TAIL: Final = 3  # interactions that may grow at the same time
KEYWORDS: Final = 64  # per encoded call
FEEDBACK_ITEMS: Final = 32  # an index fits 5 bits
FEEDBACK_MARKS: Final = 42  # items of feedback events; with the two bounds below, a record has at most 1 kB
FEEDBACK_VERSIONS: Final = 4  # model versions named in a user's feedback
FEEDBACK_VERSION_BYTES: Final = 24  # longest name of one
PLACEMENTS: Final = 255  # a number fits a byte
CHANNELS: Final = 31  # 5 bits

USER_ID_BYTES: Final = 128
ID_CHARACTERS: Final = 128
TAGS: Final = 16  # per click
TAG_CHARACTERS: Final = 64
SENTENCES: Final = 2_000  # per transcript
ITEMS: Final = 1_000  # per purchase or eligibility event
ENCODED_ITEMS: Final = 200_000  # vectors of items that a worker keeps: 150 MB with 384 numbers each
ITEM_VECTOR_BYTES: Final = 16_384
NEW_ITEMS: Final = 10_000  # that a model ranks by their texts alone
SHOWN_ITEMS: Final = 100  # per feedback event
ORIGINAL_BYTES: Final = 65_536  # largest part of the original in a dead letter
TRANSCRIPT_BYTES: Final = 4 << 20  # largest record of a transcript
RECORD_BYTES: Final = 8 << 20
"""Largest record of a state or training example, on the broker and in every client. One that reaches all bounds above exceeds the
broker's default of 1 MiB, and a record that the broker refuses would stop its partition.
"""

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
FIRST_TIME_MS: Final = -62_135_596_800_000  # 0001-01-01: dates, and so RFC 3339, have no earlier year
LAST_TIME_MS: Final = 253_402_300_799_999  # 9999-12-31
MODEL_FILE_BYTES: Final = 1 << 30
"""Largest file of a model folder, unless a setting says otherwise."""
MODEL_FOLDER_BYTES: Final = 2 << 30
