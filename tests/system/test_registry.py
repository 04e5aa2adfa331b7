"""The registry on SQLite: versions, roles, rollback; a broken registry is an error and never an empty one."""

import sqlite3
from pathlib import Path

import pytest

from tests.system.registries import DATABASE, registry_in, uri_of
from training.registry import Registry, RegistryError


def add(registry: Registry, **metrics: float) -> str:
    """Registers a version with an empty folder."""
    version = registry.next_version()
    folder = Path(registry.new_folder(version))
    folder.mkdir(parents=True)
    registry.register(version, folder, f"hash-{version}", "popular", {"examples": 3}, metrics)
    return version


def test_versions_are_numbered_and_keep_their_folder_hash_and_metrics(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    assert [add(registry), add(registry, map3_union=0.5)] == ["1", "2"]
    newest, first = registry.versions()
    assert (newest.version, newest.sha256, newest.metrics) == ("2", "hash-2", {"map3_union": 0.5})
    assert Path(first.uri) == (registry_folder / "models" / "1").resolve()


def test_another_process_sees_the_same(registry_folder: Path) -> None:
    first = registry_in(registry_folder)
    first.promote(add(first))
    again = registry_in(registry_folder).version_in_role("champion")
    assert again is not None
    assert again.version == "1"


def test_two_applications_in_one_registry_have_versions_and_champions_of_their_own(registry_folder: Path) -> None:
    """Each counts from 1, in a folder of its own."""
    one, other = registry_in(registry_folder), Registry(uri_of(registry_folder), registry_folder / "models" / "shop", "shop")
    one.promote(add(one))
    add(one)
    assert other.versions() == []
    assert other.version_in_role("champion") is None
    other.promote(add(other))
    assert (other.next_version(), one.next_version()) == ("2", "3")
    assert [version.uri for version in other.versions()] == [str((registry_folder / "models" / "shop" / "1").resolve())]
    assert [version.roles for version in one.versions()] == [(), ("champion",)]


def test_a_role_without_a_version_is_none(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    assert registry.version_in_role("champion") is None
    assert registry.version_in_role("shadow") is None


def test_promotion_gives_the_version_with_its_new_role_and_keeps_the_former_champion(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    add(registry), add(registry)
    assert registry.promote("1").roles == ("champion",)
    assert registry.promote("2").roles == ("champion",)
    assert registry.get("1").roles == ("previous",)


def test_a_challenger_changes_nothing_for_the_champion(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    add(registry), add(registry)
    registry.promote("1")
    registry.promote("2", "challenger")
    champion, challenger = registry.version_in_role("champion"), registry.version_in_role("challenger")
    assert champion is not None
    assert challenger is not None
    assert (champion.version, challenger.version) == ("1", "2")
    assert registry.version_in_role("previous") is None


def test_rollback_swaps_champion_and_former_champion(registry_folder: Path) -> None:
    """Two rollbacks cancel out."""
    registry = registry_in(registry_folder)
    add(registry), add(registry)
    registry.promote("1")
    registry.promote("2")
    assert registry.rollback().version == "1"
    assert registry.rollback().version == "2"


def test_promoting_the_champion_again_keeps_the_rollback_target(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    add(registry), add(registry)
    registry.promote("1")
    registry.promote("2")
    registry.promote("2")
    assert registry.rollback().version == "1"


def test_rollback_without_a_former_champion_says_what_to_do(registry_folder: Path) -> None:
    with pytest.raises(RegistryError, match="isthmus models list"):
        registry_in(registry_folder).rollback()


@pytest.mark.parametrize("version", ["7", "x", ""])
def test_an_unknown_version_cannot_get_a_role(version: str, registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    add(registry)
    with pytest.raises(RegistryError, match="no model version"):
        registry.promote(version)
    assert registry.version_in_role("champion") is None


def test_a_folder_that_an_interrupted_run_left_is_not_written_into(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    leftover = Path(registry.new_folder("1"))
    leftover.mkdir(parents=True)
    (leftover / "half.bin").write_bytes(b"half")
    assert Path(registry.new_folder("1")) != leftover
    assert add(registry) == "1"
    assert (leftover / "half.bin").read_bytes() == b"half"


def test_a_second_trainer_that_took_the_number_is_noticed(registry_folder: Path) -> None:
    """The folder contains its version's number and must not be registered under another one."""
    one, other = registry_in(registry_folder), registry_in(registry_folder)
    version = one.next_version()
    folder = Path(one.new_folder(version))
    folder.mkdir(parents=True)
    add(other)
    with pytest.raises(RegistryError, match="one trainer per registry"):
        one.register(version, folder, "hash", "popular", {}, {})
    assert [version.version for version in one.versions()] == ["1"]
    assert [one.get("1").sha256] == ["hash-1"]
    assert add(one) == "3"  # MLflow never reuses a number, and 2 was removed


def test_a_deleted_version_does_not_block_the_next(registry_folder: Path) -> None:
    """MLflow does not list deleted versions, but does not reuse their numbers either."""
    registry = registry_in(registry_folder)
    add(registry), add(registry)
    registry._client.delete_model_version("isthmus", "2")
    assert add(registry) == "3"


def test_a_registry_that_is_opened_for_reading_creates_and_changes_nothing(registry_folder: Path, tmp_path: Path) -> None:
    """It says what is there, and refuses to write."""
    registry = registry_in(registry_folder)
    registry.promote(add(registry))
    reading = Registry(uri_of(registry_folder), tmp_path / "elsewhere", create=False)
    champion = reading.version_in_role("champion")
    assert champion is not None
    assert champion.version == "1"
    with pytest.raises(RegistryError, match="readonly"):
        reading.set_reason("1", "no")
    with pytest.raises(RegistryError, match="No such file"):
        Registry(f"sqlite:///{tmp_path}/nothing.db", tmp_path / "elsewhere", create=False)
    assert [path.name for path in tmp_path.iterdir()] == ["registry"]


def test_a_broken_database_is_an_error_and_never_an_empty_registry(registry_folder: Path) -> None:
    """A run that took it for empty would make Popular champion in place of the served model."""
    registry = registry_in(registry_folder)
    registry.promote(add(registry))
    with sqlite3.connect(registry_folder / DATABASE) as database:
        database.execute("DROP TABLE registered_model_aliases")
    with pytest.raises(RegistryError, match=r"registry\.uri"):
        registry.version_in_role("champion")


def test_a_file_that_is_not_a_database_cannot_be_opened_as_a_registry(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database" * 500)
    with pytest.raises(RegistryError, match="cannot be used"):
        registry_in(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == b"no database" * 500


def test_it_writes_nothing_to_the_terminal(registry_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """MLflow and Alembic would log otherwise."""
    registry = registry_in(registry_folder)
    registry.promote(add(registry, map3_union=0.4))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
