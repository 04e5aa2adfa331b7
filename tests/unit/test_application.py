"""What is named after an application: everything that it owns, and nothing that applications may share."""

from pathlib import Path

import pytest

from stream.api.store import Row
from stream.core.catalogue_records import RejectedItem, item_dead_letters
from stream.core.events import INPUTS, Click, Reason, Rejection, Source
from stream.core.outputs import Origin
from stream.core.records import PlainRecord
from stream.core.step import step
from stream.errors import IsthmusError
from stream.kafka.cluster.corrupt_batches import current_skips_group, use_skips_of
from stream.kafka.cluster.owners import owned_by
from stream.kafka.cluster.rights import Kind, Process, rights_of
from stream.kafka.cluster.topics import specs
from stream.process_settings import ApiSettings, DeliverySettings, PostgresSettings, WebhookSettings
from stream.services.process import step_config, transcript_format
from stream.settings import Settings, TopicSettings, leaves, load
from stream.sinks.undelivered import letter_of
from tests.world import NOW, OrderRanker, Store, batch_of, catalogue

SHARED = {"items", "isthmus-applications", *(row.default_name for row in INPUTS if not row.is_derived)}


def settings_of(application: str, **sections: object) -> Settings:
    """Of an application that uses everything that has a name on the cluster."""
    everything = {"api": ApiSettings(redis_url="redis://shared"), "delivery": DeliverySettings(guarantee="exactly_once")}
    return Settings(application=application, **{**everything, **sections})  # type: ignore[arg-type]


def names_of(settings: Settings) -> dict[Kind, set[str]]:
    """All names on the cluster that any process or command uses, by kind, but for those of the successor that a backfill makes."""
    rights = [right for process in Process for right in rights_of(process, settings) if not right.name.startswith("NAME-")]
    return {kind: {right.name for right in rights if right.kind is kind} for kind in Kind}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without a settings file."""
    monkeypatch.chdir(tmp_path)


def test_all_that_an_application_owns_on_the_cluster_begins_with_its_name() -> None:
    """Of every process: groups, transactional ids and topics; the inputs and the topic of owners are shared. A topic that is added
    one day, and the changelog, included.
    """
    names = names_of(settings_of("shop"))
    assert names[Kind.TOPIC] - SHARED
    assert {name for found in names.values() for name in found if not name.startswith("shop-")} == SHARED


def test_the_default_application_keeps_the_names_of_earlier_versions() -> None:
    """Without a prefix where there was none."""
    names = names_of(settings_of("isthmus"))
    assert names == names_of(Settings(api=ApiSettings(redis_url="redis://x"), delivery=DeliverySettings(guarantee="exactly_once")))
    assert {"isthmus-profiles", "isthmus-encoder", "isthmus-catalogue", "isthmus-skips", "isthmus-api"} <= names[Kind.GROUP]
    assert {"isthmus-sink-postgres", "isthmus-sink-webhook"} <= names[Kind.GROUP]
    assert {"isthmus-profiles-0", "isthmus-encoder-7"} <= names[Kind.TRANSACTIONAL_ID]
    own = {"recommendations", "training-examples", "dead-letters", "replayed-dead-letters", "models", "api-keys"}
    own |= {"encoded-calls", "encoded-items"}
    assert names[Kind.TOPIC] == SHARED | own | {"isthmus-profiles-users-changelog"}


def test_two_applications_share_no_name_but_those_of_the_inputs() -> None:
    """However alike their names."""
    one, other = names_of(settings_of("shop")), names_of(settings_of("shop-eu"))
    assert {kind: one[kind] & other[kind] for kind in Kind} == {
        Kind.TOPIC: SHARED,
        Kind.GROUP: set(),
        Kind.TRANSACTIONAL_ID: set(),
    }


def test_a_topic_or_group_that_is_named_keeps_its_name() -> None:
    """In a file, in a variable and in code; the others of its section get the application's."""
    named = settings_of(
        "shop",
        topics=TopicSettings(models="common-models", partitions=2),
        postgres=PostgresSettings(db_schema="crm"),
        webhook=WebhookSettings(group="crm-lists"),
    )
    assert (named.topics.models, named.topics.recommendations, named.topics.partitions) == (
        "common-models",
        "shop-recommendations",
        2,
    )
    assert (named.postgres.db_schema, named.postgres.group, named.webhook.group) == ("crm", "shop-sink-postgres", "crm-lists")


def test_names_come_from_file_and_variables_and_settings_show_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that follows from the application is shown as such."""
    Path("isthmus.toml").write_text('application = "shop-eu"\n[topics]\ndead_letters = "lost"\n')
    monkeypatch.setenv("ISTHMUS_TOPICS__MODELS", "common-models")
    settings = load()
    shown = {name: (value, origin) for name, value, origin in leaves(settings)}
    assert shown["application"] == ("shop-eu", "isthmus.toml")
    assert shown["topics.recommendations"] == ("shop-eu-recommendations", "application")
    assert shown["topics.dead_letters"] == ("lost", "isthmus.toml")
    assert shown["topics.models"] == ("common-models", "ISTHMUS_TOPICS__MODELS")
    assert shown["topics.clicks"] == ("web-clicks", "default")
    assert shown["postgres.db_schema"] == ("shop_eu", "application")
    assert shown["api.redis_prefix"] == ("shop-eu-api", "application")


def test_folders_of_two_applications_are_apart_even_where_they_are_named() -> None:
    """A container image names them for every application."""
    here = Settings(application="shop")
    default = Settings()
    assert here.worker_state_dir == default.worker_state_dir / "shop"
    assert here.api_state_dir == default.api_state_dir / "shop"
    assert here.registry_folder == f"{default.registry_folder}/shop"
    assert default.worker_state_dir == default.worker.state_dir
    on_s3 = here.model_copy(update={"registry": here.registry.model_copy(update={"folder": "s3://bucket/models/"})})
    assert on_s3.registry_folder == "s3://bucket/models/shop"


@pytest.mark.parametrize("name", ["", "Shop", "shop.eu", "shop_eu", "-shop", "shop-", "a--b", "1st", "a/b", "x" * 41])
def test_a_name_that_some_system_would_not_take_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, with the variable and what to write."""
    monkeypatch.setenv("ISTHMUS_APPLICATION", name)
    with pytest.raises(IsthmusError, match=r"^setting application \(ISTHMUS_APPLICATION\): must be words of .*$"):
        load()


def test_what_one_application_gives_up_is_given_up_for_it_alone() -> None:
    """The group of notes is the application's of the process."""
    use_skips_of("shop")
    assert current_skips_group() == "shop-skips"


def test_what_a_process_owns_is_what_it_writes_and_where_it_commits() -> None:
    """And the states that it reads; without the inputs, and without groups that have no members."""
    shop = settings_of("shop")
    assert owned_by(Process.WORKER, shop) == [
        (Kind.TOPIC, "shop-profiles-users-changelog"),
        (Kind.TOPIC, "shop-recommendations"),
        (Kind.TOPIC, "shop-training-examples"),
        (Kind.TOPIC, "shop-dead-letters"),
        (Kind.GROUP, "shop-profiles"),
        (Kind.GROUP, "shop-catalogue"),
    ]
    changelog = (Kind.TOPIC, "shop-profiles-users-changelog")
    assert owned_by(Process.API, shop) == [changelog, (Kind.GROUP, "shop-api")]
    assert owned_by(Process.ERASE, shop) == [(Kind.TOPIC, "shop-training-examples")]
    assert owned_by(Process.AUDIENCE, shop) == [changelog]
    assert owned_by(Process.TEXT_MODEL, shop) == []


def test_what_an_application_publishes_names_it_as_the_source() -> None:
    """Two that read the same inputs give their lists and dead letters the same ids: source and id together tell them apart."""
    config = step_config(settings_of("shop", topics=TopicSettings(partitions=1)))
    batch = batch_of(Source.CLICK, [(0, Click("u", NOW, ("home",)))])
    batch = batch._replace(records=[*batch.records, PlainRecord(1, NOW, b"u", b"{")])
    outcome = step(batch, Store(), OrderRanker(), catalogue(), config)
    letter = letter_of(Row(b"u", b"{}", 0, NOW), Origin("lists", 1, 0, 0), "refused", b"shop")[2]
    rejected = [RejectedItem(record, Rejection(Reason.EMPTY, "empty")) for record in batch.records]
    letters = item_dead_letters("items", 1, 0, rejected, b"shop")
    headers = [one.headers for one in (*outcome.recommendations, *outcome.dead_letters, *letters)]
    assert {dict(found)["ce_source"] for found in (*headers, letter)} == {b"shop"}
    assert len(headers) == 4
    assert transcript_format(settings_of("shop")).application == b"shop"


def test_every_topic_of_an_application_is_owned_or_shared() -> None:
    """By some process."""
    shop = settings_of("shop")
    owned = {name for process in Process for kind, name in owned_by(process, shop) if kind is Kind.TOPIC}
    assert owned == {spec.name for spec in specs(shop.topics, "shop")} - SHARED
