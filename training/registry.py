"""The registry: MLflow records runs, model versions and roles. Workers never import it.

A version's source is its model folder, a path or a URL; roles are MLflow aliases. By default the registry is a SQLite file and a
local folder.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from models import folders
from models.trusted_folders import FolderTrust
from stream.core.outputs import Role
from stream.errors import IsthmusError

PREVIOUS: Final = "previous"
"""The alias of the former champion, to which a rollback returns."""

_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 by default: minutes until a wrong URL is reported
}
_MISSING: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
"""MLflow's error codes for a missing version and (the second) a missing alias; any other means that the lookup failed."""


class ModelVersion(NamedTuple):
    """One registered model version.

    Attributes:
        version: its number.
        kind: the system's name.
        uri: its model folder.
        sha256: of the folder's manifest.
        roles: the version's aliases.
        metrics: from the evaluation after training.
        reason: the gate's.
    """

    version: str
    kind: str
    uri: str
    sha256: str
    roles: tuple[str, ...]
    metrics: Mapping[str, float]
    reason: str


_SQLITE: Final = "sqlite:///"
_HEADER: Final = b"SQLite format 3\0"
_LAST: Final = "last_version"  # a tag of the registered model: MLflow never reuses a number, but does not list deleted ones


class RegistryError(IsthmusError):
    """The registry cannot be used, or has no such version."""


def load_library() -> None:
    """Imports MLflow (4 s), so that only whoever uses a registry waits for it."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401, PLC0415

    for noisy in ("mlflow", "alembic"):  # after the import, which sets its own levels
        logging.getLogger(noisy).setLevel(logging.ERROR)


class Registry:
    """The model versions of one application, registered under its name."""

    def __init__(
        self, uri: str, folder: Path | str, name: str = "isthmus", *, create: bool = True, trust: FolderTrust | None = None
    ) -> None:
        """Opens the registry, and creates it if it does not exist (3 s). `folder` is where its versions' folders are written.

        Without `create`, a file of SQLite is opened for reading only. `trust` says which versions' folders are read, as whoever may
        write to the registry names them; None: those in `folder`.

        Raises:
            RegistryError: it cannot be reached or read, or is missing and not to be created.
            models.folders.FolderError: no installed package opens the folder's URL.
        """
        self.folder = folders.absolute(str(folder))
        self.trust = FolderTrust((self.folder,)) if trust is None else trust
        folders.check_opens(self.folder)
        load_library()
        import mlflow  # noqa: PLC0415
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        self._error = MlflowException
        self._uri, self._name = uri, name
        with self._translated_errors():
            if create:
                _create_folders(uri, self.folder)
            opened = uri if create else _for_reading(uri)
            self._client = mlflow.MlflowClient(tracking_uri=opened, registry_uri=opened)
            experiment = self._client.get_experiment_by_name(self._name)
            if create:
                self._experiment: str = experiment.experiment_id if experiment else self._client.create_experiment(self._name)
                if not self._client.search_registered_models(f"name='{self._name}'"):
                    self._client.create_registered_model(self._name)

    def next_version(self) -> str:
        """Returns the number of the next registered version.

        Only one trainer may run at a time; `register` notices a second one, and a version deleted elsewhere.
        """
        with self._translated_errors():
            versions = [int(listed.version) for listed in self._client.search_model_versions(f"name='{self._name}'")]
            last = self._client.get_registered_model(self._name).tags.get(
                _LAST, "0"
            )  # may have been deleted since; its number is not reused
        return str(max([*versions, int(last)]) + 1)

    def new_folder(self, version: str) -> str:
        """Returns the version's folder, avoiding one that an interrupted run left.

        Raises:
            models.folders.FolderError: the storage cannot be asked what is there.
        """
        folder = f"{self.folder}/{version}"
        number = 0
        while folders.exists(folder):
            number += 1
            folder = f"{self.folder}/{version}-{number}"
        return folder

    def register(
        self, version: str, folder: Path | str, sha256: str, kind: str, params: Mapping[str, object], metrics: Mapping[str, float]
    ) -> None:
        """Records a run and its model version, without a role. The folder exists already and holds the number.

        Raises:
            RegistryError: another trainer took the number meanwhile; the new record is removed.
        """
        with self._translated_errors():
            run = self._client.create_run(self._experiment, run_name=kind)
            for name, value in params.items():
                self._client.log_param(run.info.run_id, name, value)
            for name, number in metrics.items():
                self._client.log_metric(run.info.run_id, name, number)
            self._client.set_terminated(run.info.run_id)
            tags = {"kind": kind, "sha256": sha256}
            created = self._client.create_model_version(
                self._name, source=folders.absolute(str(folder)), run_id=run.info.run_id, tags=tags
            )
            self._client.set_registered_model_tag(self._name, _LAST, str(created.version))
            if str(created.version) == version:
                return
            self._client.delete_model_version(self._name, created.version)
        raise RegistryError(
            f"version {version} was taken meanwhile: run one trainer per registry, then train again (under another number)"
        )

    def set_reason(self, version: str, reason: str) -> None:
        """Records why the gate promoted or refused the version."""
        with self._translated_errors():
            self._client.set_model_version_tag(self._name, version, "reason", reason)

    def promote(self, version: str, role: Role = "champion") -> ModelVersion:
        """Gives the version a role and returns it; the former champion gets the alias `previous`."""
        self.get(version)
        champion = self.version_in_role("champion") if role == "champion" else None
        with self._translated_errors():
            if champion is not None and champion.version != version:
                self._client.set_registered_model_alias(self._name, PREVIOUS, champion.version)
            self._client.set_registered_model_alias(self._name, role, version)
        return self.get(version)

    def rollback(self) -> ModelVersion:
        """Promotes the former champion.

        Raises:
            RegistryError: there is none.
        """
        previous = self.version_in_role(PREVIOUS)
        if previous is None:
            raise RegistryError("there is no former champion to return to: `isthmus models list` shows the versions")
        return self.promote(previous.version)

    def version_in_role(self, role: str) -> ModelVersion | None:
        """Returns the version in a role, or None.

        Raises:
            RegistryError: the lookup failed. That must not pass for "none": a run would replace a champion that it did not see.
        """
        with self._translated_errors():
            try:
                version = self._client.get_model_version_by_alias(self._name, role)
            except self._error as error:
                if error.error_code in _MISSING:
                    return None
                raise
            return self._version(version)

    def get(self, version: str) -> ModelVersion:
        with self._translated_errors():
            try:
                return self._version(self._client.get_model_version(self._name, version))
            except self._error as error:
                if error.error_code not in _MISSING:
                    raise
        raise RegistryError(f"there is no model version {version}: `isthmus models list` shows them")

    def versions(self) -> list[ModelVersion]:
        """Returns all versions, newest first."""
        with self._translated_errors():
            versions = self._client.search_model_versions(f"name='{self._name}'")
            return [self._version(version) for version in sorted(versions, key=lambda version: -int(version.version))]

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Raises MLflow's, SQLAlchemy's and the file system's errors as RegistryError."""
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  (MLflow's dependency, already imported)

        try:
            yield
        except (self._error, SQLAlchemyError, OSError) as error:
            first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RegistryError(
                f"the registry at {self._uri} cannot be used ({first_line}): check registry.uri and registry.folder"
            ) from error

    def _version(self, recorded: Any) -> ModelVersion:
        aliases = self._client.get_registered_model(self._name).aliases
        roles = tuple(sorted(alias for alias, version in aliases.items() if str(version) == str(recorded.version)))
        metrics = dict(self._client.get_run(recorded.run_id).data.metrics) if recorded.run_id else {}
        return ModelVersion(
            version=str(recorded.version),
            kind=recorded.tags["kind"],
            uri=recorded.source,
            sha256=recorded.tags["sha256"],
            roles=roles,
            metrics=metrics,
            reason=recorded.tags.get("reason", ""),
        )


def _create_folders(uri: str, folder: str) -> None:
    if uri.startswith(_SQLITE):
        Path(uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    if not folders.is_url(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def _for_reading(uri: str) -> str:
    """The URI that opens a file of SQLite for reading only; that of a server stays.

    Raises:
        RegistryError: there is no such database. MLflow would try to open it for minutes.
    """
    if not uri.startswith(_SQLITE):
        return uri
    file = Path(uri.removeprefix(_SQLITE)).absolute()
    try:
        with file.open("rb") as opened:
            is_database = opened.read(len(_HEADER)) == _HEADER
    except OSError as error:
        raise RegistryError(f"the registry {file} cannot be read ({error.strerror}): check registry.uri") from None
    if not is_database:
        raise RegistryError(f"the registry {file} is no SQLite database: check registry.uri")
    return f"{_SQLITE}file:{quote(str(file))}?mode=ro&uri=true"
