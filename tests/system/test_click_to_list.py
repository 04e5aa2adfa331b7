"""A click in the shop becomes a new list in the same browser, on real Kafka: page, API, Kafka, worker, Kafka, API, stream, page."""

import asyncio
import os
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from playwright.async_api import Browser, expect

from models.artifact import write_ranker
from stream.api.api_keys import ApiKeys, Scope, make_api_key
from stream.api.app import make_app
from stream.core.announcements import ModelAnnouncement
from stream.core.events import Item
from stream.core.interactions import session_of
from stream.core.ranking import Ranker
from stream.core.tokens import join_tokens
from stream.kafka.cluster.compacted_topic import announce
from stream.kafka.cluster.corrupt_batches import StoppedPartitions
from stream.kafka.cluster.event_sink import open_event_sink
from stream.kafka.cluster.kafka_log_reader import KafkaLogReader
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topics import create_or_check
from stream.metrics import Metrics
from stream.process_settings import RegistrySettings
from stream.services.api import following, make_parts, open_store
from stream.services.child_processes import ChildProcess
from stream.services.process import followed
from stream.services.startup import Startup
from tests import api
from tests.api import ITEMS, NOW, TOPICS
from tests.browser import browser
from tests.rankers import random_ranker
from tests.serving import served

CLICKS = int(os.environ.get("SHOP_CLICKS", "3"))
"""`SHOP_CLICKS=30` gives the figures of the guide."""
WITHIN_MS = 90_000
PAGES = {"Home": "home", "Car": "car", "Dog and cat": "pets", "Health": "health"}
"""Topics of the shop, and their names in tags."""
CLICK_AND_SEE = """async (label) => {
    const list = document.getElementById("list");
    const names = () => [...list.querySelectorAll(".name")].map((name) => name.textContent).join();
    const before = names(), began = performance.now();
    const changed = new Promise((seen) => {
        new MutationObserver(() => names() !== before && seen()).observe(list, {childList: true});
    });
    document.querySelector(`[aria-label="${label}: Look at the cover"]`).click();
    await changed;
    return performance.now() - began;
}"""


def ranker_that_reads_clicks() -> Ranker:
    """The first of random weights under which each click in the shop changes the first five items of its visitor."""
    clicks = [("products", f"{page}-cover", "select") for page in PAGES.values()]
    visits = [[session_of([(NOW + second, clicks[second]) for second in range(count)])] for count in range(1, len(clicks) + 1)]
    tags, tokens = sorted({tag for one in clicks for tag in one}), [join_tokens(sorted(one)) for one in clicks]
    prior = np.linspace(0.9, 0.1, len(ITEMS), dtype=np.float32)
    for seed in range(1_000):
        ranker = random_ranker("isthmus", ITEMS, prior, tags=tags, clicks=tokens, seed=seed)
        scores = np.vstack([prior, ranker.rank_many(ranker.encode_many(visits))])
        if all(not np.array_equal(*two) for two in pairwise(np.argsort(-scores, axis=1, kind="stable")[:, :5])):
            return ranker
    raise AssertionError("no weights change the list at each click")


def publish_a_model_that_reads_clicks(bootstrap: str, folder: Path) -> None:
    sha256 = write_ranker(folder, ranker_that_reads_clicks(), version="1")
    champion = ModelAnnouncement(role="champion", name="isthmus", version="1", uri=str(folder), sha256=sha256, published_at=NOW)
    announce(bootstrap, TOPICS.models, champion)


@asynccontextmanager
async def shop(bootstrap: str, folder: Path) -> AsyncIterator[str]:
    """A replica of the API with the shop, on a broker."""
    settings = api.settings(state_dir=folder / "api", requests_per_s_of_an_address=0, requests_per_s_of_a_user=0)
    settings = settings.model_copy(update={"registry": RegistrySettings(folder=str(folder))})
    store, stop, metrics = await open_store(settings), asyncio.Event(), Metrics()
    secret, key = make_api_key("page", (Scope.PUBLIC,), NOW)
    try:
        async with open_event_sink(bootstrap, TOPICS.model_dump(), TOPICS.partitions, 10) as sink:
            parts = make_parts(settings, store, KafkaLogReader(bootstrap), sink, metrics)
            own = msgspec.structs.replace(parts.api, keys=ApiKeys((key,)), page_key=secret)
            follows = {TOPICS.items: parts.current.on_items, TOPICS.models: parts.current.on_models}
            async with (
                followed(bootstrap, follows, own.health, stop, Startup(lambda _: None), StoppedPartitions()),
                following(parts, stop),
                served(make_app(own, metrics), own.changes.end) as url,
            ):
                yield url
    finally:
        await store.close()


async def click_as_a_visitor(chromium: Browser, url: str, clicks: int) -> list[float]:
    """What each click took until the list beside it was another, ms. The visitor has no past."""
    context = await chromium.new_context()
    page = await context.new_page()
    await page.goto(f"{url}/shop")
    await page.check("#consent")
    await expect(page.locator("#list li").first).to_be_visible(timeout=WITHIN_MS)
    took = []
    for title in list(PAGES)[:clicks]:
        async with asyncio.timeout(WITHIN_MS / 1_000):
            took.append(float(await page.evaluate(CLICK_AND_SEE, title)))
    await context.close()
    return took


@pytest.mark.timeout(300)
async def test_a_click_in_the_shop_changes_the_list_beside_it(empty_kafka: str, tmp_path: Path) -> None:
    """Each click the list of its visitor, who sees it without loading the page again. The milliseconds are printed."""
    create_or_check(empty_kafka, TOPICS, dev=True)
    records = [InputRecord("items", item, msgspec.json.encode(Item(item, item.title()))) for item in ITEMS]
    await produce(empty_kafka, records, TOPICS.model_dump(), lambda _: None)
    publish_a_model_that_reads_clicks(empty_kafka, tmp_path / "model")
    environment = {
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions),
        "ISTHMUS_REGISTRY__FOLDER": str(tmp_path),
        "ISTHMUS_WORKER__STATE_DIR": str(tmp_path / "worker"),
        "ISTHMUS_WORKER__STATIC_MEMBERSHIP": "false",
    }
    worker = ChildProcess(["worker", "--bootstrap", empty_kafka, "--metrics-port", "0"], environment, tmp_path / "worker.log")
    took: list[float] = []
    try:
        async with shop(empty_kafka, tmp_path) as url, browser() as chromium:
            await click_as_a_visitor(chromium, url, 1)  # the worker joins its group first
            while len(took) < CLICKS:
                worker.check()
                took += await click_as_a_visitor(chromium, url, CLICKS - len(took))
    finally:
        worker.stop()
    each = ", ".join(f"{one:.0f}" for one in took)
    print(f"\nfrom click to new list, ms: median {statistics.median(took):.0f}, longest {max(took):.0f} of {len(took)}: {each}")
    assert len(took) == CLICKS
