"""Makes the checks of `isthmus doctor`, one after the other, for the processes that run with these settings.

Each check has an end, also where nobody answers, and one that cannot be made costs no other.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Final, TypeVar

from kafka.errors import AuthorizationError, KafkaError

from stream.errors import IsthmusError
from stream.kafka.cluster.access import NoAnswerError, refusal
from stream.kafka.cluster.rights import Process
from stream.kafka.cluster.survey import Survey
from stream.services.doctor.checks import check_brokers, check_security, check_variables
from stream.services.doctor.findings import Finding, failed, not_checked
from stream.services.doctor.questions import Deployment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from stream.settings import Settings

    Ask = Callable[[], list[Finding]]

T = TypeVar("T")
LONGEST_S: Final = 15.0
"""Of one check."""
KAFKA_S: Final = 30.0
"""Of all that ask a broker together."""
_NOBODY: Final = "no broker lets this process in"
ORDER: Final = (
    "settings",
    "broker",
    "security",
    "ACLs",
    "topics",
    "formats",
    "partitions",
    "offsets",
    "registry",
    "model",
    "text model",
    "disk",
    "clock",
)


def examine(
    settings: Settings, processes: Sequence[Process], unread: Mapping[str, str | None], step: Callable[[str], None]
) -> list[Finding]:
    """All findings for some processes. `unread` are the variables that nobody reads; `step` is told what is being done."""
    deployment = Deployment(settings, processes)
    found = check_variables(unread, settings.step.erasure_key.get_secret_value()) + bounded("settings", deployment.ask_settings)
    step(f"asking the brokers at {settings.kafka.bootstrap}")
    named = knock(filter(None, map(str.strip, settings.kafka.bootstrap.split(","))))
    is_in = None in named.values()
    found += bounded("broker", lambda: check_brokers(named, advertised(settings.kafka.bootstrap, named) if is_in else {}))
    refusals = [error for error in named.values() if error is not None and not isinstance(error, NoAnswerError)]
    if is_in or refusals:
        found += check_security(settings.kafka, [] if is_in else refusals, deployment.who)
    found += _ask_kafka(deployment.questions_to_kafka(), step) if is_in else _leave(deployment.questions_to_kafka(), _NOBODY)
    deployment.load(step)
    for name, ask in deployment.other_questions().items():
        step(f"checking {name}")
        found += bounded(name, ask)
    return sorted(found, key=lambda one: ORDER.index(one.check))


def _ask_kafka(questions: Mapping[str, Ask], step: Callable[[str], None]) -> list[Finding]:
    """The checks that need a broker. One that has stopped answering meanwhile does not cost the time of each."""
    deadline, found = time.monotonic() + KAFKA_S, list[Finding]()
    for name, ask in questions.items():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            found += _leave([name], f"the checks before it took {KAFKA_S:g} s: look at the brokers")
            continue
        step(f"checking {name}")
        found += bounded(name, ask, min(LONGEST_S, left_s))
    return found


def _leave(names: Iterable[str], why: str) -> list[Finding]:
    return [not_checked(name, why) for name in names]


def bounded(name: str, ask: Ask, longest_s: float = LONGEST_S) -> list[Finding]:
    """What a check finds. That it fails, or does not end in time, is a finding too."""
    try:
        return within(longest_s, ask)
    except AuthorizationError as error:
        return [not_checked(name, f"this user may not ask the broker for it ({type(error).__name__})")]
    except IsthmusError as error:
        return [failed(name, str(error))]
    except (KafkaError, OSError) as error:
        return [failed(name, f"{type(error).__name__}: {error}".rstrip(": "))]
    except Exception as error:  # noqa: BLE001  (a bug costs this check, not the others)
        return [failed(name, f"the check itself failed ({type(error).__name__}: {error})", "report this")]


def within(longest_s: float, ask: Callable[[], T]) -> T:
    """Returns the answer, or raises its error. One that does not come is left behind, in a thread that ends with the process.

    Raises:
        TimeoutError: it did not come.
    """
    answers: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((ask(), None))
        except Exception as error:  # noqa: BLE001  (raised below)
            answers.put((None, error))

    threading.Thread(target=answer, name="doctor", daemon=True).start()
    try:
        value, error = answers.get(timeout=longest_s)
    except queue.Empty:
        raise TimeoutError(f"no answer within {longest_s:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def knock(addresses: Iterable[str]) -> dict[str, IsthmusError | None]:
    """Why each address does not let us in; None where it does. All at once: one that swallows packets takes seconds."""
    found = list(dict.fromkeys(addresses))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(found, pool.map(refusal, found), strict=True))


def advertised(bootstrap: str, named: Mapping[str, IsthmusError | None]) -> dict[str, IsthmusError | None]:
    """The same for the addresses under which the brokers want to be reached. `named` are those asked before."""
    with closing(Survey(bootstrap)) as survey:
        addresses = survey.brokers()
    asked = {**named, **knock(address for address in addresses if address not in named)}
    return {address: asked[address] for address in addresses}
