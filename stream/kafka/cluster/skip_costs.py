"""What giving up a damaged batch of a topic may bring back, and what has to follow: nobody can say which records it held."""

from typing import NamedTuple

from stream.application import worker_group
from stream.kafka.cluster.topics import TABLE, changelog_name
from stream.settings import Settings


class Cost(NamedTuple):
    """What a lost batch costs.

    Attributes:
        held: What it may have held, and what may come back without it.
        then: What has to follow, step by step.
        first: What has to be done before.
    """

    held: str
    then: tuple[str, ...]
    first: str = ""


def cost_of(topic: str, settings: Settings) -> Cost | None:
    """None for a topic whose damaged batches hold events or dead letters, and no deletions."""
    if topic == changelog_name(worker_group(settings.application)):
        return _own_changelog(settings)
    if topic.endswith(f"-{TABLE}-changelog"):
        return Cost(
            "states of users of another application, and what was erased of others, nobody knows of whom; this permission counts "
            f"for the processes of {settings.application} alone",
            ("repeat the command with ISTHMUS_APPLICATION set to the application that owns the topic, and do there what it says",),
        )
    return _other_costs(settings).get(topic)


def _own_changelog(settings: Settings) -> Cost:
    return Cost(
        "states of users, and what was erased of others, nobody knows of whom: users would go back to older states, and erased "
        "ones come back",
        (
            f"send each erasure again that {settings.topics.erasures} no longer holds: `isthmus erase USER --at TIME`",
            "run `isthmus reset` before a worker starts: it reads the inputs again, and all erasures that are left",
            "erase again whom the API still shows although `erasures` holds no event of them",
        ),
        "stop all workers before",
    )


def _other_costs(settings: Settings) -> dict[str, Cost]:
    topics = settings.topics
    again = "erase again who was erased since the topic was compacted there: `isthmus erase USER`"
    lists = Cost(
        "lists of users, and the deletions of lists of users who were erased: API, sinks and consumers would show older lists, and "
        "those of erased users again",
        (again, "the other lists are right again with the next event of their users"),
    )
    return {
        topics.recommendations: lists,
        topics.flat_recommendations: lists,
        topics.training_examples: Cost(
            "training examples, and the deletions of examples of erased users: trainers would learn from these again",
            (again, "train anew if a model was trained meanwhile"),
        ),
        topics.api_keys: Cost(
            "API keys and their revocations: a revoked key would be accepted again",
            ("revoke and create again what is missing: `isthmus keys list`, `isthmus keys revoke`, `isthmus keys create`",),
        ),
        topics.items: Cost(
            "items, and the deletions of withdrawn ones: these would be recommended again",
            ("publish the whole catalogue again, with a tombstone for each item that was withdrawn",),
        ),
        topics.encoded_items: Cost(
            "vectors of items, and the deletions of those of withdrawn ones",
            ("publish the items again: the encoder encodes those whose vectors are missing",),
        ),
        topics.models: Cost(
            "announcements of models: workers may serve an earlier one",
            ("announce the model again: `isthmus models promote`, or `isthmus models rollback`",),
        ),
        topics.applications: Cost(
            "notes of owners, resets and backfills of all applications; this permission counts for the processes of "
            f"{settings.application} alone",
            (
                "finish each reset and backfill that is under way: run its command again before a worker starts",
                "run `isthmus topics` for each application, which notes what it owns again, and give the batch up for each",
            ),
        ),
        topics.replayed: Cost(
            "notes of what was replayed: dead letters may be replayed, or lists sent, a second time",
            ("look at `isthmus dead-letters list` before a replay",),
        ),
        topics.erasures: Cost(
            "erasures: the users whom they name would not be erased",
            ("send each erasure again that was sent at that time: `isthmus erase USER --at TIME`",),
        ),
    }
