"""Model folders on an object store and behind other URLs: written by the trainer, served by a worker that has only the URL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from models.artifact import ModelRefused, load_ranker, write_ranker
from models.folders import FolderError
from stream.cli.main import app
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.served_model import ServedModel
from stream.metrics import Metrics
from tests.purchases import ITEMS, purchases
from tests.system.registries import uri_of
from training.datasets.example_file import write_examples
from training.registry import Registry
from training.training_run import publish_popular


@pytest.fixture(scope="module")
def object_store() -> Iterator[str]:
    """The endpoint of a store with the bucket `models`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**credentials, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        another_client().mkdir("bucket")
        yield endpoint
    server.stop()


def another_client() -> Any:
    """The store as another process sees it."""
    return fsspec.filesystem("s3", skip_instance_cache=True)


@pytest.fixture(params=["s3", "file", "memory", "path"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """`registry.folder` as a deployment would set it."""
    if request.param == "s3":
        request.getfixturevalue("object_store")
    places = {"s3": f"s3://bucket/{tmp_path.name}/", "file": f"file://{tmp_path}/m", "memory": f"memory://{tmp_path.name}"}
    return places.get(request.param, str(tmp_path / "m"))


async def test_a_model_is_written_registered_and_served_from_any_url(
    folder: str, registry_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is created in the working directory, as `./s3:/bucket` once was."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    registry = Registry(uri_of(registry_folder), folder)
    announced = [publish_popular(purchases(count), ITEMS, registry).announcement for count in (60, 90)]
    assert [Registry(uri_of(registry_folder), folder).get(version).uri for version in ("1", "2")] == [
        f"{registry.folder}/{version}" for version in ("1", "2")
    ]
    follower = ServedModelFollower(ServedModel(), metrics := Metrics())
    for announcement in announced:
        assert announcement is not None
        await follower._swap(announcement)
    assert metrics.total("model_swaps") == 2
    assert list(empty.iterdir()) == []


@pytest.mark.usefixtures("object_store")
def test_a_folder_that_an_interrupted_run_left_on_an_object_store_is_not_written_into(registry_folder: Path) -> None:
    """There are no folders there, only names that begin alike; another process wrote them."""
    registry = Registry(uri_of(registry_folder), "s3://bucket/leftovers")
    first = registry.new_folder("1")
    assert first == "s3://bucket/leftovers/1"
    another_client().pipe_file("bucket/leftovers/1/half.bin", b"half")
    assert registry.new_folder("1") == "s3://bucket/leftovers/1-1"


@pytest.mark.usefixtures("object_store")
def test_a_bucket_that_does_not_exist_is_not_made(registry_folder: Path) -> None:
    """A misspelt name is an error that names the folder."""
    registry = Registry(uri_of(registry_folder), "s3://bukcet/models")
    with pytest.raises(FolderError, match="s3://bukcet/models/1 cannot be created"):
        publish_popular(purchases(60), ITEMS, registry)
    assert another_client().ls("") == ["bucket"]


@pytest.mark.usefixtures("object_store")
@pytest.mark.parametrize("failure", ["no access", "no file", "no server"])
def test_a_folder_that_cannot_be_read_is_a_refusal_whatever_its_package_raises(
    failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker keeps its model and tries again; botocore's errors are no OSError."""
    fsspec.filesystem("s3").clear_instance_cache()
    if failure == "no access":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    if failure == "no server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ModelRefused, match=r"s3://bucket/missing/manifest\.json cannot be read") as refused:
        load_ranker("s3://bucket/missing")
    assert refused.value.reason == "unreadable"
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize(
    ("url", "said"),
    [("gs://bucket/models", "gcsfs"), ("abfs://c/models", "adlfs"), ("sftp://h/models", "paramiko"), ("nope://x", "nope")],
)
def test_a_scheme_whose_package_is_missing_is_said_with_its_package(url: str, said: str, registry_folder: Path) -> None:
    """When the registry is opened, and not after an hour of training."""
    with pytest.raises(FolderError, match=said):
        Registry(uri_of(registry_folder), url)
    with pytest.raises(ModelRefused, match=said):
        load_ranker(f"{url}/1")


@pytest.mark.usefixtures("object_store")
def test_the_commands_take_the_url_from_the_settings(
    registry_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`isthmus train` writes there and announces the URL; nothing is created in the working directory."""
    write_examples(tmp_path / "examples", purchases(100))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.setenv("ISTHMUS_REGISTRY__URI", uri_of(registry_folder))
    monkeypatch.setenv("ISTHMUS_REGISTRY__FOLDER", "s3://bucket/commands")
    options = ["--examples", str(tmp_path / "examples"), "--system", "popular", "--announce-file", str(tmp_path / "told")]
    CliRunner().invoke(app, ["train", *options], catch_exceptions=False)
    shown = CliRunner().invoke(app, ["models", "show", "1"], catch_exceptions=False)
    assert "s3://bucket/commands/1" in shown.output
    assert another_client().exists("bucket/commands/1/manifest.json")
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    """A version's content never changes."""
    ranker = load_ranker(str(tmp_path / "m"), write(tmp_path / "m"))
    with pytest.raises(FolderError, match="cannot be created"):
        write_ranker(tmp_path / "m", ranker, version="2")


def write(path: Path) -> str:
    from models.popular import Popular, prior_of

    return write_ranker(path, Popular("1", "", ITEMS, prior_of([[ITEMS[0]]], ITEMS)), version="1")
