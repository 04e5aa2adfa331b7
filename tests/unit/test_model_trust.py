"""What the settings say of models: which folders are read, which keys sign, and what is announced at all."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.trusted_folders import UntrustedFolderError
from stream.core.announcements import ModelAnnouncement, encode_announcement, read_announcement
from stream.process_settings import RegistrySettings
from stream.services.model_trust import announcement_trust, folder_trust, outgoing
from stream.services.startup import Startup
from stream.services.trainer import _open_registry
from stream.settings import Settings, load

KEYS = ("first-key-of-a-test" * 2, "second-key-of-a-test" * 2)


def settings(application: str = "isthmus", **registry: Any) -> Settings:
    return Settings(application=application, registry=RegistrySettings(**{"folder": "/models", **registry}))


@pytest.mark.parametrize(
    ("chosen", "trusted"),
    [
        (settings(), ("/models",)),
        (settings("shop"), ("/models/shop",)),
        (settings("shop", announced_by="isthmus"), ("/models", "/models/shop")),
        (settings("shop", trusted_folders=("s3://bucket/models", "/old")), ("s3://bucket/models", "/old")),
    ],
)
def test_models_are_read_from_the_registrys_folder_unless_others_are_named(chosen: Settings, trusted: tuple[str, ...]) -> None:
    """That of the application, and of the one whose models it reads."""
    assert folder_trust(chosen).folders == trusted


def test_a_key_comes_from_a_file_and_a_short_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that can be guessed signs nothing."""
    (tmp_path / "keys").write_text(f'["{KEYS[0]}", "{KEYS[1]}"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTHMUS_REGISTRY__ANNOUNCEMENT_KEYS_FILE", str(tmp_path / "keys"))
    assert announcement_trust(load()).keys == tuple(key.encode() for key in KEYS)
    with pytest.raises(ValidationError, match="each must have at least 32 bytes: `openssl rand -hex 32` makes one"):
        settings(announcement_keys=(KEYS[0], "x" * 31))


def test_what_a_trainer_sends_its_workers_accept() -> None:
    """Signed with the first key. An application that reads another one's models checks that one's signature."""
    champion = ModelAnnouncement(role="champion", name="n", version="1", uri="/models/1", sha256="s", published_at=1)
    sent = outgoing(settings(announcement_keys=KEYS), champion)
    reader = settings("shop", announced_by="isthmus", announcement_keys=KEYS[:1])
    value = encode_announcement(sent)
    assert read_announcement(value, announcement_trust(reader)) == sent
    assert read_announcement(value, announcement_trust(settings("shop", announcement_keys=KEYS))) != sent


def test_a_trainer_whose_own_folder_is_not_trusted_says_so_before_it_trains() -> None:
    """It would train for an hour, and then not announce what it wrote."""
    with pytest.raises(UntrustedFolderError, match=r"'/models' does not lie below a trusted folder \(/other\)"):
        _open_registry(settings(trusted_folders=("/other",)), Startup(lambda _: None))


def test_a_folder_that_no_worker_would_read_is_not_announced() -> None:
    """Whoever may write to the registry names it."""
    champion = ModelAnnouncement(role="champion", name="n", version="1", uri="/etc", sha256="s", published_at=1)
    with pytest.raises(UntrustedFolderError, match=r"'/etc' does not lie below a trusted folder \(/models\)"):
        outgoing(settings(), champion)
