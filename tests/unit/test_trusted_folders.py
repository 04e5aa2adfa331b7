"""Which model folders are read, and how much of them: whoever announces a model must not decide what a process opens."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import fsspec
import msgspec
import pytest
import torch

from models.artifact import MANIFEST, ModelRefused, load_ranker, read_prior, verify_folder, write_ranker
from models.popular import prior_of
from models.systems import network_type
from models.trusted_folders import FolderTrust, UntrustedFolderError, located
from tests.rankers import random_ranker

ITEMS = ("a", "b", "c")
MIB = 1 << 20


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A registry with a model `1`; beside it a folder `models-private` with another, and a link from the one to the other."""
    folder = tmp_path / "models"
    for at in (folder / "1", tmp_path / "models-private" / "1"):
        write(at, "popular")
    (folder / "link").symlink_to(tmp_path / "models-private" / "1")
    return folder


def write(at: Path, name: str) -> str:
    return write_ranker(at, random_ranker(name, ITEMS, prior_of([["a"], ["b", "a"]], ITEMS)), version="7")


@pytest.mark.parametrize(
    "uri",
    [
        "{0}/1",
        "{0}/./1/",
        "{0}/../models/1",
        "file://{0}/1",
        "local://{0}/1",
        "{0}",
    ],
)
def test_a_local_folder_below_the_trusted_one_is_read_however_it_is_written(registry: Path, uri: str) -> None:
    """Paths and `file://` URLs are compared by the place that they lead to."""
    assert Path(located(uri.format(registry), [str(registry)])).is_relative_to(registry)
    assert Path(located(uri.format(registry), [f"file://{registry}/"])).is_relative_to(registry)


@pytest.mark.parametrize(
    "uri",
    [
        "{0}-private/1",
        "{0}/../models-private/1",
        "{0}/1/../../models-private/1",
        "file://{0}/../models-private/1",
        "{0}/link",
        "file://{0}/link",
        "/etc",
        "",
        ".",
        "~/models/1",
        "file://~/models/1",
        "{0}/1\0",
        "s3://bucket{0}/1",
        "memory://{0}/1",
        "https://host.example{0}/1",
        "simplecache::file://{0}/1",
        "{0}/1::file:///etc",
        "zip://*::file://{0}/1",
    ],
)
def test_a_local_folder_elsewhere_is_refused(registry: Path, uri: str) -> None:
    """By `..`, by a link, by a name that begins alike, by another scheme, through a chain."""
    with pytest.raises(UntrustedFolderError, match=r"does not lie below a trusted folder .*: see registry\.trusted_folders"):
        located(uri.format(registry), [str(registry)])


@pytest.mark.parametrize("trusted", ["s3://bucket/models", "s3://bucket/models/"])
@pytest.mark.parametrize("uri", ["s3://bucket/models/3", "s3://bucket/models/shop/3-1", "s3://bucket/models"])
def test_a_url_below_the_trusted_one_is_read(trusted: str, uri: str) -> None:
    assert located(uri, ["/models", trusted]) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/models-private/3",
        "s3://other/models/3",
        "s3://bucket/other/models/3",
        "s3://bucket/models/../other/3",
        "s3://bucket/models/3/..",
        "s3://bucket/models/./3",
        "s3://bucket/models//3",
        "s3://bucket/models/%2e%2e/other/3",
        "s3://bucket/models/%252e%252e/other",
        "s3://bucket/models/..%2fother",
        "s3://bucket/models/..\\other",
        "s3://bucket/models/3?versionId=1",
        "s3://bucket/models/3#x",
        "s3://bucket/models/*",
        "s3://bucket/models/3::file:///etc",
        "s3://bucket/models/3\n",
        "S3://bucket/models/3",
        "s3a://bucket/models/3",
        "gs://bucket/models/3",
        "s3://user@bucket/models/3",
        "https://bucket/models/3",
        "file:///bucket/models/3",
        "bucket/models/3",
        "simplecache::s3://bucket/models/3",
    ],
)
def test_a_url_elsewhere_is_refused(uri: str) -> None:
    """By host, prefix, scheme or user, by what a server may take for `..`, by a query, through a chain."""
    with pytest.raises(UntrustedFolderError):
        located(uri, ["s3://bucket/models"])


def test_a_refusal_shows_a_strangers_text_as_one_short_line() -> None:
    """A log line must not be forged, nor filled."""
    with pytest.raises(UntrustedFolderError) as refused:
        located("s3://x/\nERROR all is well" + "y" * 5_000, ["/models"])
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


Load = Callable[[str, str, FolderTrust], object]


@pytest.mark.parametrize("load", [load_ranker, verify_folder, read_prior], ids=lambda load: load.__name__)
def test_every_reader_of_model_folders_keeps_to_the_trusted_ones(registry: Path, load: Load) -> None:
    """A whole ranker, its prior alone, and the doctor's look at it."""
    trust = FolderTrust((str(registry),))
    sha256 = hashlib.sha256((registry / "1" / MANIFEST).read_bytes()).hexdigest()
    load(str(registry / "1"), sha256, trust)
    with pytest.raises(ModelRefused, match="does not lie below a trusted folder") as refused:
        load(str(registry / "link"), sha256, trust)
    assert refused.value.reason == "untrusted"


def changed(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/b", "..", ".hidden", "", "a\\b", "%2e%2e", "s3://b/k", "a\n", "a" * 200, "CON:"]
)
def test_a_manifest_names_plain_files_of_its_folder(registry: Path, name: str) -> None:
    """It decides which files are opened."""
    changed(registry / "1", files={"items.json": "0", name: "0"})
    with pytest.raises(ModelRefused, match="which is no plain file name") as refused:
        load_ranker(str(registry / "1"))
    assert refused.value.reason == "name"


def test_a_manifest_with_too_many_files_is_refused(registry: Path) -> None:
    changed(registry / "1", files={f"file-{number}": "0" for number in range(101)})
    with pytest.raises(ModelRefused, match="names 101 files; at most 100"):
        load_ranker(str(registry / "1"))


def test_a_file_that_leads_out_of_the_trusted_folders_is_refused(registry: Path, tmp_path: Path) -> None:
    """Its name is plain, and it is a link."""
    (tmp_path / "secret").write_bytes(b"secret")
    (registry / "1" / "items.json").unlink()
    (registry / "1" / "items.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelRefused) as refused:
        load_ranker(str(registry / "1"), None, FolderTrust((str(registry),)))
    assert refused.value.reason == "untrusted"


@pytest.mark.timeout(20)
def test_what_is_no_file_is_not_opened(registry: Path) -> None:
    """A pipe would keep the reader for ever."""
    (registry / "1" / "items.json").unlink()
    os.mkfifo(registry / "1" / "items.json")
    with pytest.raises(ModelRefused, match="it is no file"):
        load_ranker(str(registry / "1"))


def test_a_file_that_is_too_large_is_refused_before_it_is_read(registry: Path) -> None:
    """A file full of holes takes no disk, and would take all memory."""
    with (registry / "1" / "weights.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    changed(registry / "1", files={"items.json": "0", "weights.safetensors": "0"})
    with pytest.raises(
        ModelRefused, match=r"weights\.safetensors has more bytes than are read: registry\.max_file_bytes"
    ) as refused:
        load_ranker(str(registry / "1"))
    assert refused.value.reason == "size"


@pytest.mark.parametrize("name", ["manifest.json", "items.json"])
def test_a_json_file_has_a_bound_of_its_own(registry: Path, name: str) -> None:
    """In memory it is many times as large. The manifest is bounded like all."""
    with (registry / "1" / name).open("r+b") as file:
        file.truncate(65 * MIB)
    with pytest.raises(ModelRefused, match=f"{name} has more bytes") as refused:
        load_ranker(str(registry / "1"))
    assert refused.value.reason == "size"


def test_a_folder_that_is_too_large_is_refused_before_its_files_are_read(registry: Path) -> None:
    """Each file is within its bound, and all together are not."""
    files = {f"part-{number}": "0" for number in range(3)}
    for name in files:
        (registry / "1" / name).write_bytes(bytes(MIB))
    changed(registry / "1", files=files)
    with pytest.raises(ModelRefused, match="all files together has more bytes") as refused:
        load_ranker(str(registry / "1"), None, FolderTrust(None, 2 * MIB, 3 * MIB))
    assert refused.value.reason == "size"


def test_a_file_that_is_larger_than_its_storage_says_is_not_read_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may grow in between, and some storages know no sizes."""
    files = fsspec.filesystem("memory")
    files.pipe_file("/growing/manifest.json", b" " * (3 * MIB))
    monkeypatch.setattr(type(files), "info", lambda _, path, **__: {"name": path, "size": 1, "type": "file"})
    with pytest.raises(ModelRefused) as refused:
        load_ranker("memory://growing", None, FolderTrust(None, 2 * MIB, 4 * MIB))
    assert refused.value.reason == "size"


def replaced(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    changed(folder, files=files | {name: hashlib.sha256(content).hexdigest()})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("network.json", b'{"latent":1000000000,"hidden":1000000000}'),
        ("network.json", b'{"latent":-1}'),
        ("reader.json", b'{"vocabularies":{"tags":["a"],"clicks":[],"keywords":[]},"text_width":1000000000000}'),
        ("weights.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
        ("weights.safetensors", b"\x80\x04cos\nsystem\n(S'true'\ntR."),
        ("items.json", b"[" * 100_000),
        ("items.json", b'{"items":[["a"],{}],"prior":[1,1]}'),
        ("items.json", b"[1]"),
    ],
)
def test_no_file_of_a_folder_decides_what_is_allocated_or_run(tmp_path: Path, name: str, content: bytes) -> None:
    """Sizes in a configuration, lengths in a header, a pickle: each is a refusal, at once."""
    write(tmp_path / "m", "latent_feature")
    replaced(tmp_path / "m", name, content)
    with pytest.raises(ModelRefused) as refused:
        load_ranker(str(tmp_path / "m"))
    assert refused.value.reason == ("items" if name == "items.json" else "weights")


@pytest.mark.parametrize(("wrong", "devices"), [(False, ["meta", "cpu"]), (True, ["meta"])])
def test_a_network_is_made_only_in_the_size_that_its_weights_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: bool, devices: list[str]
) -> None:
    """Its sizes are compared without allocating them: a size that the machine could just allocate would take its memory."""
    write(tmp_path / "m", "latent_feature")
    if wrong:
        replaced(tmp_path / "m", "network.json", b'{"latent":1000,"hidden":1000}')
    made: list[str] = []
    network = network_type("latent_feature")

    class Recorded(network):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object) -> None:
            made.append(torch.empty(0).device.type)
            super().__init__(*arguments)

    monkeypatch.setattr("models.artifact.network_type", lambda _: Recorded)
    with pytest.raises(ModelRefused, match="asks for other sizes") if wrong else nullcontext():
        load_ranker(str(tmp_path / "m"))
    assert made == devices


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b'{"files":1}', msgspec.json.encode({"files": {}})])
def test_a_manifest_that_cannot_be_read_is_refused(registry: Path, content: bytes) -> None:
    (registry / "1" / MANIFEST).write_bytes(content)
    with pytest.raises(ModelRefused) as refused:
        load_ranker(str(registry / "1"))
    assert refused.value.reason == "manifest"
