"""The registry: MLflow as the book of record of runs, model versions and roles. Workers never import it.

A version's source is its model folder; roles are MLflow aliases. The default is embedded: a SQLite file and a local folder.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

MODEL: Final = "isthmus"


class Version(NamedTuple):
    """One registered model version. `roles` are its aliases; `uri` its folder."""

    version: str
    kind: str
    uri: str
    sha256: str
    roles: tuple[str, ...]
    metrics: Mapping[str, float]
    reason: str


class RegistryError(Exception):
    """The registry cannot be used, or does not know a version."""


class Registry:
    """Model versions under one name, "isthmus"."""

    def __init__(self, uri: str, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        for noisy in ("mlflow", "alembic", "alembic.runtime.migration"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        import mlflow  # noqa: PLC0415  (4 s: only where a registry is used)
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        logging.getLogger("alembic").setLevel(logging.ERROR)
        self._error = MlflowException
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        experiment = self._client.get_experiment_by_name(MODEL)
        self._experiment: str = experiment.experiment_id if experiment else self._client.create_experiment(MODEL)
        try:
            self._client.get_registered_model(MODEL)
        except MlflowException:
            self._client.create_registered_model(MODEL)

    def next_version(self) -> str:
        """The number that the next registered version will have; one trainer at a time."""
        versions = [int(found.version) for found in self._client.search_model_versions(f"name='{MODEL}'")]
        return str(max(versions, default=0) + 1)

    def new_folder(self, version: str) -> Path:
        """Where the version's folder goes; what an interrupted run left there is moved aside, never overwritten."""
        path = self.folder / version
        number = 0
        while path.exists():
            number += 1
            path = self.folder / f"{version}-{number}"
        return path

    def register(self, folder: Path, sha256: str, kind: str, params: Mapping[str, object], metrics: Mapping[str, float]) -> str:
        """Records a run and its model version; gives the version. It has no role yet."""
        run = self._client.create_run(self._experiment, run_name=kind)
        for name, value in params.items():
            self._client.log_param(run.info.run_id, name, value)
        for name, number in metrics.items():
            self._client.log_metric(run.info.run_id, name, number)
        self._client.set_terminated(run.info.run_id)
        tags = {"kind": kind, "sha256": sha256}
        found = self._client.create_model_version(MODEL, source=str(folder.resolve()), run_id=run.info.run_id, tags=tags)
        return str(found.version)

    def say_why(self, version: str, reason: str) -> None:
        """Keeps the gate's words with the version."""
        self._client.set_model_version_tag(MODEL, version, "reason", reason)

    def promote(self, version: str, role: str = "champion") -> Version:
        """Gives the role to the version; the former champion keeps the alias `previous`."""
        found = self.get(version)
        if role == "champion" and (champion := self.holder("champion")) is not None and champion.version != version:
            self._client.set_registered_model_alias(MODEL, "previous", champion.version)
        self._client.set_registered_model_alias(MODEL, role, version)
        return found

    def holder(self, role: str) -> Version | None:
        """The version in a role."""
        try:
            return self._version(self._client.get_model_version_by_alias(MODEL, role))
        except self._error:
            return None

    def get(self, version: str) -> Version:
        try:
            return self._version(self._client.get_model_version(MODEL, version))
        except self._error:
            raise RegistryError(f"there is no model version {version}: `isthmus models list` shows them") from None

    def versions(self) -> list[Version]:
        """All versions, newest first."""
        found = self._client.search_model_versions(f"name='{MODEL}'")
        return [self._version(one) for one in sorted(found, key=lambda one: -int(one.version))]

    def _version(self, found: Any) -> Version:
        aliases = self._client.get_registered_model(MODEL).aliases
        roles = tuple(sorted(alias for alias, version in aliases.items() if str(version) == str(found.version)))
        metrics = dict(self._client.get_run(found.run_id).data.metrics) if found.run_id else {}
        tags = found.tags
        return Version(str(found.version), tags["kind"], found.source, tags["sha256"], roles, metrics, tags.get("reason", ""))
