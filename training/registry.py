"""The registry: MLflow as the book of record of runs, model versions and roles. Workers never import it.

A version's source is its model folder; roles are MLflow aliases. The default is embedded: a SQLite file and a local folder.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from stream.core.outputs import Role
from stream.errors import IsthmusError

MODEL: Final = "isthmus"
PREVIOUS: Final = "previous"
"""The alias of the champion before this one: where a rollback goes."""

_QUIET: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 by default: minutes until a wrong URL is told
}
_MISSING: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
"""How MLflow says that a version, or (the second) an alias, is not there; anything else means that it could not look."""


class Version(NamedTuple):
    """One registered model version. `roles` are its aliases; `uri` its folder."""

    version: str
    kind: str
    uri: str
    sha256: str
    roles: tuple[str, ...]
    metrics: Mapping[str, float]
    reason: str


_LAST: Final = "last_version"  # tag of the registered model: MLflow never gives a number twice, but does not tell deleted ones


class RegistryError(IsthmusError):
    """The registry cannot be used, or does not know a version."""


class Registry:
    """Model versions under one name, "isthmus"."""

    def __init__(self, uri: str, folder: Path) -> None:
        """Opens the registry, and makes it where there is none (3 s).

        Raises:
            RegistryError: it cannot be reached or read.
        """
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import mlflow  # noqa: PLC0415  (4 s: only where a registry is used)
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        for noisy in ("mlflow", "alembic"):  # after the import, which sets levels of its own
            logging.getLogger(noisy).setLevel(logging.ERROR)
        self._error = MlflowException
        self._uri = uri
        self.folder = folder
        with self._translated():
            if uri.startswith("sqlite:///"):
                Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(parents=True, exist_ok=True)
            self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            experiment = self._client.get_experiment_by_name(MODEL)
            self._experiment: str = experiment.experiment_id if experiment else self._client.create_experiment(MODEL)
            if not self._client.search_registered_models(f"name='{MODEL}'"):
                self._client.create_registered_model(MODEL)

    def next_version(self) -> str:
        """The number that the next registered version will have; one trainer at a time (`register` notices a second, and a version
        deleted past us).
        """
        with self._translated():
            versions = [int(found.version) for found in self._client.search_model_versions(f"name='{MODEL}'")]
            last = self._client.get_registered_model(MODEL).tags.get(_LAST, "0")  # may have been deleted since; its number is gone
        return str(max([*versions, int(last)]) + 1)

    def new_folder(self, version: str) -> Path:
        """Where the version's folder goes; what an interrupted run left there is moved aside, never overwritten."""
        path = self.folder / version
        number = 0
        while path.exists():
            number += 1
            path = self.folder / f"{version}-{number}"
        return path

    def register(
        self, version: str, folder: Path, sha256: str, kind: str, params: Mapping[str, object], metrics: Mapping[str, float]
    ) -> None:
        """Records a run and its model version, whose folder is there already and names it. It has no role yet.

        Raises:
            RegistryError: another trainer took the number meanwhile; what was recorded here is withdrawn.
        """
        with self._translated():
            run = self._client.create_run(self._experiment, run_name=kind)
            for name, value in params.items():
                self._client.log_param(run.info.run_id, name, value)
            for name, number in metrics.items():
                self._client.log_metric(run.info.run_id, name, number)
            self._client.set_terminated(run.info.run_id)
            tags = {"kind": kind, "sha256": sha256}
            found = self._client.create_model_version(MODEL, source=str(folder.resolve()), run_id=run.info.run_id, tags=tags)
            self._client.set_registered_model_tag(MODEL, _LAST, str(found.version))
            if str(found.version) == version:
                return
            self._client.delete_model_version(MODEL, found.version)
        raise RegistryError(
            f"version {version} was taken meanwhile: run one trainer per registry, and the run again (its number will be another)"
        )

    def say_why(self, version: str, reason: str) -> None:
        """Keeps the gate's words with the version."""
        with self._translated():
            self._client.set_model_version_tag(MODEL, version, "reason", reason)

    def promote(self, version: str, role: Role = "champion") -> Version:
        """Gives the role to the version; the former champion keeps the alias `previous`. Gives the version as it is then."""
        self.get(version)
        champion = self.holder("champion") if role == "champion" else None
        with self._translated():
            if champion is not None and champion.version != version:
                self._client.set_registered_model_alias(MODEL, PREVIOUS, champion.version)
            self._client.set_registered_model_alias(MODEL, role, version)
        return self.get(version)

    def rollback(self) -> Version:
        """Makes the former champion champion again.

        Raises:
            RegistryError: there is none.
        """
        previous = self.holder(PREVIOUS)
        if previous is None:
            raise RegistryError("there is no former champion to go back to: `isthmus models list` shows the versions")
        return self.promote(previous.version)

    def holder(self, role: str) -> Version | None:
        """The version in a role; None where nobody has it.

        Raises:
            RegistryError: the registry cannot tell. That is not "nobody": a run would replace a champion that it did not see.
        """
        with self._translated():
            try:
                found = self._client.get_model_version_by_alias(MODEL, role)
            except self._error as error:
                if error.error_code in _MISSING:
                    return None
                raise
            return self._version(found)

    def get(self, version: str) -> Version:
        with self._translated():
            try:
                return self._version(self._client.get_model_version(MODEL, version))
            except self._error as error:
                if error.error_code not in _MISSING:
                    raise
        raise RegistryError(f"there is no model version {version}: `isthmus models list` shows them")

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        with self._translated():
            found = self._client.search_model_versions(f"name='{MODEL}'")
            return [self._version(one) for one in sorted(found, key=lambda one: -int(one.version))]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """MLflow's, SQLAlchemy's and the file system's errors as one of ours."""
        from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  (MLflow's own dependency, loaded by now)

        try:
            yield
        except (self._error, SQLAlchemyError, OSError) as error:
            said = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RegistryError(
                f"the registry at {self._uri} cannot be used ({said}): check registry.uri and registry.folder"
            ) from error

    def _version(self, found: Any) -> Version:
        aliases = self._client.get_registered_model(MODEL).aliases
        roles = tuple(sorted(alias for alias, version in aliases.items() if str(version) == str(found.version)))
        metrics = dict(self._client.get_run(found.run_id).data.metrics) if found.run_id else {}
        tags = found.tags
        return Version(str(found.version), tags["kind"], found.source, tags["sha256"], roles, metrics, tags.get("reason", ""))
