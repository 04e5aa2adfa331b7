"""A registry per test, copied from one empty database, because MLflow takes seconds to create one."""

import shutil
from pathlib import Path

from training.registry import Registry

DATABASE = "mlflow.db"


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / DATABASE}"


def registry_in(folder: Path) -> Registry:
    """Opens the registry in `folder` as a trainer does."""
    return Registry(uri_of(folder), folder / "models")


def copy_of(template: Path, folder: Path) -> Path:
    """Copies the empty registry in `template` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(template / DATABASE, folder / DATABASE)
    return folder
