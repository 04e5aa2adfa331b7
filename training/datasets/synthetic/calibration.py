"""What the synthetic world must resemble: aggregates of the two tables that the paper's authors published.

Source: data_users and data_purchase_events of github.com/simonebbruun/RS_multi_modal_user_interactions (Bruun and others, SIGIR
2024; 51,877 users, 62,401 purchase events). Only counts and shares, no rows of those tables. Everything generated from them is
synthetic. Items are numbered 1 to 24 as in the tables; their names and meanings in `catalogue` are invented.
"""

from typing import Final

PURCHASE_EVENTS: Final = 62401
USERS: Final = 51877
ITEMS: Final = 24
TYPES: Final = ("session", "conversation", "both")
"""Event types; every tuple by type has this order."""

TYPE_SHARES: Final = (0.6816, 0.1325, 0.186)
TYPE_SHARES_BY_DECILE: Final = (
    (0.719, 0.111, 0.17),
    (0.721, 0.115, 0.164),
    (0.738, 0.1, 0.161),
    (0.66, 0.175, 0.165),
    (0.718, 0.104, 0.178),
    (0.644, 0.148, 0.208),
    (0.641, 0.153, 0.206),
    (0.675, 0.129, 0.196),
    (0.648, 0.148, 0.204),
    (0.651, 0.142, 0.207),
)
"""Of purchase events in the order of their ids."""
NEXT_TYPE: Final = (
    (0.7747, 0.0395, 0.1857),
    (0.2311, 0.4125, 0.3564),
    (0.3305, 0.0761, 0.5933),
)
"""The type of a user's next event (column), given the last one's (row)."""

EVENTS_PER_USER: Final = (0.8352, 0.1346, 0.0238, 0.005, 0.001, 0.0002, 0.0001)
"""Shares of 1 to 6 and of 7 and more, as in the next four."""
SESSIONS_PER_SESSION_EVENT: Final = (0.5378, 0.2169, 0.1004, 0.0529, 0.0302, 0.0185, 0.0434)
CONVERSATIONS_PER_CONVERSATION_EVENT: Final = (0.807, 0.1391, 0.0351, 0.0111, 0.0042, 0.0016, 0.0018)
ITEMS_PER_EVENT: Final = (0.7264, 0.1465, 0.067, 0.0373, 0.0174, 0.0043, 0.0011)
TAIL_7_TO_10: Final = (0.25, 0.17, 0.13, 0.45)
"""How "7 and more" interactions divide; chosen so that the means (2.1269 and 1.2816) and the bound of 10 are met."""
MEAN_INTERACTIONS: Final = (2.1269, 1.2816, 4.3858)
BOTH_COUNTS: Final = (
    (0.2805, 0.1677, 0.0927, 0.0557, 0.1181),
    (0.0481, 0.038, 0.0303, 0.0188, 0.0532),
    (0.0123, 0.01, 0.0084, 0.0061, 0.025),
    (0.0065, 0.0055, 0.0064, 0.005, 0.0117),
)
"""Of events of type both: conversations 1, 2, 3, 4 and more (row) by sessions 1 to 4, 5 and more (column)."""
BOTH_TAIL_CONVERSATIONS: Final = (0.58, 0.235, 0.097, 0.088)
"""How 4 and more conversations divide into 4, 5, 6, 7."""
BOTH_TAIL_SESSIONS: Final = (0.29, 0.19, 0.18, 0.18, 0.16)
"""How 5 and more sessions divide into 5 to 9."""
BOTH_PATTERNS: Final = {
    "SC": 0.2175,
    "SSC": 0.0951,
    "CS": 0.063,
    "SCS": 0.0533,
    "SSSC": 0.0403,
    "SCC": 0.0239,
    "SSCS": 0.0224,
    "SCSS": 0.022,
    "CSS": 0.0192,
    "SSSSC": 0.0179,
    "CSC": 0.0159,
    "SSCSS": 0.0129,
}
"""The most common orders of sessions (S) and conversations (C), shares of events of type both."""
FIRST_IS_SESSION: Final = 0.8052
LAST_IS_SESSION: Final = 0.4303
MEAN_SWITCHES: Final = 1.6929
"""Of events of type both."""

SHARED_WITH_LAST_EVENT: Final = 0.4
"""Consecutive purchase events of a user that share interactions."""
EVENTS_PER_CONVERSATION: Final = 1.0716
EVENTS_PER_SESSION: Final = 1.0831
"""Means of the number of events whose history holds an interaction."""
NUMBERED_FROM_ONE: Final = 0.977
"""Events whose event_number is 1 to n."""
ITEMS_BOUGHT_BEFORE: Final = 0.1417
EVENTS_WITH_REPEAT: Final = 0.1787
"""Of the items, and of the events, that come after a user's first event."""

ITEM_SHARES_BY_TYPE: Final = (
    (
        0.068,
        0.0376,
        0.0393,
        0.1653,
        0.0285,
        0.0581,
        0.1339,
        0.1246,
        0.0119,
        0.0107,
        0.0118,
        0.0329,
        0.0879,
        0.0327,
        0.0243,
        0.0941,
        0.0842,
        0.1694,
        0.0367,
        0.0097,
        0.054,
        0.0905,
        0.0183,
        0.0755,
    ),
    (
        0.0399,
        0.0426,
        0.0212,
        0.1735,
        0.045,
        0.0734,
        0.1718,
        0.1822,
        0.0063,
        0.0076,
        0.0335,
        0.0195,
        0.0565,
        0.0135,
        0.012,
        0.0676,
        0.0433,
        0.2596,
        0.0392,
        0.0069,
        0.0338,
        0.0561,
        0.0122,
        0.0583,
    ),
    (
        0.045,
        0.047,
        0.018,
        0.1517,
        0.0335,
        0.0768,
        0.1371,
        0.1292,
        0.0057,
        0.0042,
        0.0242,
        0.0342,
        0.0825,
        0.0218,
        0.0205,
        0.0919,
        0.0727,
        0.2653,
        0.0352,
        0.0072,
        0.036,
        0.0624,
        0.013,
        0.0507,
    ),
)
"""Share of the events of a type (row) with item 1 to 24."""
ITEM_SHARES_TRAIN: Final = (
    0.062,
    0.0405,
    0.0334,
    0.1664,
    0.0314,
    0.0634,
    0.1363,
    0.1334,
    0.0102,
    0.0092,
    0.0165,
    0.0311,
    0.0878,
    0.0291,
    0.0231,
    0.0951,
    0.0804,
    0.1976,
    0.027,
    0.0092,
    0.0506,
    0.0829,
    0.0168,
    0.0691,
)
ITEM_SHARES_TEST: Final = (
    0.0425,
    0.0359,
    0.0287,
    0.1404,
    0.034,
    0.0655,
    0.1682,
    0.1304,
    0.0077,
    0.0083,
    0.0216,
    0.0338,
    0.0373,
    0.0192,
    0.0122,
    0.0458,
    0.0429,
    0.2133,
    0.1245,
    0.0058,
    0.0242,
    0.0617,
    0.0139,
    0.0641,
)
"""In the first 90 % and the last 10 % of the events: how popularity drifts (item 19 grows, 13, 16 and 17 shrink)."""
ITEM_SHARES: Final = (
    0.06002,
    0.04005,
    0.03296,
    0.16383,
    0.03163,
    0.06362,
    0.13948,
    0.13307,
    0.00997,
    0.00912,
    0.01699,
    0.03139,
    0.08276,
    0.02811,
    0.02199,
    0.09017,
    0.07665,
    0.19918,
    0.03678,
    0.00888,
    0.04796,
    0.08075,
    0.01651,
    0.06859,
)
CO_PURCHASES: Final = (
    (17, 103, 120, 14, 23, 34, 62, 13, 17, 10, 7, 18, 12, 5, 19, 28, 107, 13, 55, 141, 606, 32, 127),
    (20, 70, 347, 727, 1346, 1444, 6, 1, 71, 39, 16, 7, 6, 15, 17, 997, 100, 7, 23, 25, 8, 22),
    (133, 7, 5, 35, 22, 13, 4, 5, 5, 16, 14, 2, 17, 9, 31, 3, 13, 60, 74, 26, 206),
    (49, 101, 514, 290, 14, 10, 23, 133, 508, 110, 22, 536, 352, 287, 39, 3, 77, 102, 32, 168),
    (553, 936, 828, 1, 3, 53, 12, 6, 23, 2, 10, 12, 731, 76, 3, 9, 22, 4, 13),
    (2438, 1785, 1, 3, 131, 24, 19, 4, 19, 19, 26, 1891, 194, 4, 11, 21, 4, 9),
    (3923, 3, 3, 221, 42, 55, 11, 19, 53, 50, 3400, 603, 2, 23, 43, 3, 42),
    (5, 12, 211, 31, 45, 9, 15, 58, 46, 3021, 355, 11, 78, 118, 6, 31),
    (12, 2, 0, 2, 3, 2, 0, 3, 6, 2, 1, 9, 21, 17, 189),
    (0, 1, 0, 3, 1, 4, 5, 5, 3, 6, 16, 13, 2, 19),
    (4, 5, 2, 1, 7, 7, 206, 22, 0, 1, 2, 2, 10),
    (950, 226, 339, 1040, 666, 47, 5, 0, 7, 7, 10, 6),
    (592, 1028, 3006, 2292, 66, 8, 2, 10, 18, 9, 32),
    (251, 543, 478, 23, 3, 5, 16, 23, 8, 20),
    (778, 819, 19, 5, 1, 3, 5, 0, 11),
    (2078, 66, 8, 5, 17, 23, 12, 30),
    (133, 13, 2, 6, 30, 4, 26),
    (295, 5, 31, 121, 15, 67),
    (3, 8, 26, 2, 13),
    (204, 189, 7, 47),
    (426, 43, 196),
    (43, 243),
    (288,),
)
"""Events with items i and j: row i - 1 lists j = i + 1 to 24."""
SINGLE_BASKETS: Final = {
    4: 0.1249,
    18: 0.1215,
    22: 0.0549,
    8: 0.0474,
    24: 0.0462,
    7: 0.0419,
    1: 0.0408,
    21: 0.0315,
    17: 0.025,
    19: 0.0249,
    16: 0.0248,
    3: 0.0234,
    6: 0.0183,
    13: 0.0153,
    14: 0.0137,
}
"""Share of all events with this item and no other; the 15 most common."""
POPULAR_AT_3: Final = {
    "conversation": (0.5243, 0.3314),
    "session": (0.4284, 0.2425),
    "both": (0.5131, 0.3349),
    "union": (0.4595, 0.2742),
}
"""HR@3 and MAP@3 of Popular on the last 10 %, without a post filter."""
