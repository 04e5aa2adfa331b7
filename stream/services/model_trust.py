"""Whose announcements and which model folders the settings trust, for every process that reads or announces models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.core.announcements import AnnouncementTrust, signed

if TYPE_CHECKING:
    from models.trusted_folders import FolderTrust
    from stream.core.announcements import ModelAnnouncement
    from stream.settings import Settings


def announcement_trust(settings: Settings) -> AnnouncementTrust:
    return AnnouncementTrust(settings.announced_by, _keys(settings))


def folder_trust(settings: Settings) -> FolderTrust:
    from models.trusted_folders import FolderTrust

    own = settings.registry
    return FolderTrust(settings.trusted_folders, own.max_file_bytes, own.max_folder_bytes)


def outgoing(settings: Settings, announcement: ModelAnnouncement) -> ModelAnnouncement:
    """Returns the announcement as it is sent: signed, if there is a key.

    Raises:
        models.trusted_folders.UntrustedFolderError: the registry names a folder from which no worker would read it.
    """
    from models.trusted_folders import located

    located(announcement.uri, settings.trusted_folders)
    return signed(announcement, AnnouncementTrust(settings.application, _keys(settings)))


def _keys(settings: Settings) -> tuple[bytes, ...]:
    return tuple(key.get_secret_value().encode() for key in settings.registry.announcement_keys)
