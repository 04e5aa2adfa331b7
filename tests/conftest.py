"""What holds for the whole suite: two workers (pytest-xdist) share a machine without disturbing each other, and the output ends
with the summary.
"""

import atexit
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

if "PYTEST_XDIST_WORKER" in os.environ:
    for limit in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(
            limit, "1"
        )  # before numpy and torch are imported: thread pools of two workers would spin against each other

from stream.application import DEFAULT
from stream.connection_settings import KafkaSettings
from stream.kafka.cluster.corrupt_batches import use_skips_of
from stream.kafka.cluster.security import use_security

hypothesis.settings.register_profile("busy machine", deadline=None)
hypothesis.settings.load_profile("busy machine")

SYSTEM = Path(__file__).parent / "system"
_exit_codes: list[int] = []


@pytest.fixture(autouse=True)
def open_broker() -> Iterator[None]:
    """Each test begins with the default security: commands that tests call in this process set it for the whole process."""
    yield
    use_security(KafkaSettings())
    use_skips_of(DEFAULT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """System tests first: they take longest, and a long test that starts last leaves the other worker idle."""
    items.sort(key=lambda item: SYSTEM not in item.path.parents)


def pytest_sessionfinish(exitstatus: int) -> None:
    _exit_codes.append(int(exitstatus))


@atexit.register
def _end_without_static_destructors() -> None:
    """Ends the process after all other exit handlers, since this one was registered first.

    triton, which torch's optimizers import, reports every object that is alive at interpreter exit as leaked (nanobind, 40 lines
    after the summary). Its switch, `nanobind::set_leak_warnings`, is not exported.
    """
    if _exit_codes and "triton" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_exit_codes[-1])


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[RedisServer]":
    """One Redis server for each worker process of the suite: each test has its own prefix."""
    from tests.redis_server import RedisServer, redis_or_skip

    redis_or_skip()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
