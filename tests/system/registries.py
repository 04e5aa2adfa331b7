"""A registry per test, of a database that is made once: MLflow takes seconds to make one."""

import shutil
from pathlib import Path

from training.registry import Registry

DATABASE = "mlflow.db"


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / DATABASE}"


def registry_in(folder: Path) -> Registry:
    """The registry of `folder`, opened as a trainer opens it."""
    return Registry(uri_of(folder), folder / "models")


def copy_of(template: Path, folder: Path) -> Path:
    """An empty registry in `folder`, from the one in `template`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(template / DATABASE, folder / DATABASE)
    return folder
