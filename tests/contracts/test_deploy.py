"""Every file of `deploy/` is checked by the tool for its kind.

A test whose tool could not be installed is skipped on a developer's machine and fails in CI.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client import Counter

from stream.cli.main import COMMANDS
from stream.metrics import DECLARED
from stream.settings import Settings, variables

DEPLOY = Path(__file__).parents[2] / "deploy"
RUNBOOK = Path(__file__).parents[2] / "docs" / "guides" / "operate.md"
SPECS = Path(__file__).parents[2] / "build" / "npm" / "node_modules" / "@asyncapi" / "specs" / "schemas"


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        absent(f"{name} is not installed: run `make setup-kafka`")
    return str(found)


def absent(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def check(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_asyncapi_document_is_valid() -> None:
    """The published schema of AsyncAPI 3.0.0 accepts it."""
    schema = SPECS / "3.0.0-without-$id.json"
    if not schema.exists():
        absent("@asyncapi/specs is not installed: run `make setup-kafka`")
    document = json.loads((DEPLOY / "asyncapi.json").read_text())
    jsonschema.Draft7Validator(json.loads(schema.read_text())).validate(document)


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for inner in value.values() for found in references(inner)]
    return [found for inner in value for found in references(inner)] if isinstance(value, list) else []


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    """The schema does not check references."""
    document = json.loads((DEPLOY / "asyncapi.json").read_text())
    for reference in references(document):
        node = document
        for name in reference.removeprefix("#/").split("/"):
            node = node[name]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.secured.yaml"])
def test_a_compose_file_fits_its_schema(name: str) -> None:
    """The schema comes from check-jsonschema, whose own command needs a version of click that Faust excludes."""
    spec = importlib.util.find_spec("check_jsonschema")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    vendored = Path(spec.submodule_search_locations[0]) / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(yaml.safe_load((DEPLOY / name).read_text()), json.loads(vendored.read_text()))


def test_the_compose_file_names_services_and_commands_that_exist() -> None:
    """Its schema checks neither, nor whether a variable is one of ours."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= services.keys(), name
        if service["image"] == "isthmus":
            assert service["command"][0] in COMMANDS, name
            assert service["environment"].keys() <= set(variables()), name


def test_the_secured_compose_file_changes_services_and_settings_that_exist() -> None:
    """A misspelt variable would be without effect."""
    secured = yaml.safe_load((DEPLOY / "compose.secured.yaml").read_text())
    assert secured["services"].keys() <= yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].keys()
    for service in secured["services"].values():
        assert service["environment"].keys() <= set(variables())
        assert set(service["secrets"]) <= secured["secrets"].keys()


def test_the_broker_of_the_compose_file_writes_to_its_volume() -> None:
    """Its image takes all settings from the environment, and writes to /tmp by default."""
    broker = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["kafka"]
    assert broker["environment"]["KAFKA_LOG_DIRS"] in [volume.split(":")[1] for volume in broker["volumes"]]


def test_the_scrape_file_is_valid_and_its_targets_are_services() -> None:
    """Prometheus's own tool accepts it, and every target is a service of the compose file."""
    path = DEPLOY / "prometheus" / "prometheus.yml"
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for job in yaml.safe_load(path.read_text())["scrape_configs"]:
        for target in job["static_configs"][0]["targets"]:
            assert target.split(":")[0] in services
    check(tool("promtool"), "check", "config", str(path))


ALERTS = [rule for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def test_the_alerts_are_rules_that_fire_when_they_should() -> None:
    """Prometheus's own tool runs them on a series for each alert; no alert is untested."""
    folder = DEPLOY / "prometheus"
    check(tool("promtool"), "check", "rules", str(folder / "alerts.yml"))
    check(tool("promtool"), "test", "rules", str(folder / "alerts_test.yml"))
    tests = yaml.safe_load((folder / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in ALERTS}


def test_alerts_use_metrics_that_exist() -> None:
    """By their exported names."""
    exported = {f"isthmus_{name}" + ("_total" if declared.kind is Counter else "") for name, declared in DECLARED.items()}
    asked = {name for rule in ALERTS for name in re.findall(r"isthmus_\w+", rule["expr"])}
    assert asked <= exported


def test_the_runbook_has_an_entry_for_each_alert() -> None:
    """And each alert links to its own entry."""
    entries = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert entries == [rule["alert"] for rule in ALERTS]
    assert [rule["annotations"]["runbook"] for rule in ALERTS] == [f"docs/guides/operate.md#{name.lower()}" for name in entries]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            "stream.kafka.cluster.access",
            ("no broker answers at", "refuses user", "is not signed by a known authority", "expects TLS"),
        ),
        ("stream.kafka.cluster.topics", ("topics that do not fit", "run `isthmus topics` without --check")),
        ("stream.kafka.faust.ownership", ("was assigned without",)),
        ("stream.kafka.faust.changelog", ("was deleted and recreated: it no longer holds what the stores",)),
        ("stream.kafka.agents.watchdog", ("recreated or deleted while running",)),
        ("stream.core.dead_letters", ("are dead letters",)),
        ("stream.metrics", ("is taken",)),
    ],
)
def test_the_runbook_quotes_what_the_processes_say(module: str, words: tuple[str, ...]) -> None:
    """A message that changes must change in the runbook too."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    said, runbook = Path(spec.origin).read_text(), RUNBOOK.read_text()
    for phrase in words:
        assert phrase in said
        assert phrase in runbook


def test_the_health_checks_ask_the_ports_of_the_settings() -> None:
    """Worker, encoder and API each on its own port, at a path that exists."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    ports = {
        "worker": Settings().worker.metrics_port,
        "encoder": Settings().encoder.metrics_port,
        "api": Settings().api.metrics_port,
    }
    looked_after = {name: service for name, service in services.items() if service.get("command", [""])[0] in ports}
    assert len(looked_after) == 6
    for service in looked_after.values():
        code = service["healthcheck"]["test"][-1]
        assert f":{ports[service['command'][0]]}/readyz" in code
        compile(code, "healthcheck", "exec")


def test_the_dockerfile_follows_the_linter() -> None:
    """No rule is ignored."""
    check(tool("hadolint"), str(DEPLOY / "Dockerfile"))


def test_the_set_up_script_is_valid_shell() -> None:
    """As far as the shell can check without running it."""
    check("bash", "-n", str(DEPLOY / "setup.sh"))


def test_the_pom_is_well_formed() -> None:
    """Maven reads it during set-up, where a broken file would fail."""
    import xml.etree.ElementTree as ET

    assert ET.parse(DEPLOY / "kafka" / "pom.xml").getroot().tag.endswith("project")
