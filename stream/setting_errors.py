"""What is wrong with a setting, where its value is from, and what to write instead. No value is quoted: it may be a secret."""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_origin

from pydantic import ValidationError

from stream.errors import IsthmusError
from stream.variables import FROM_FILE, PREFIX

_LIST: Final = '["one", "two"]'
_OBJECT: Final = '{"name": "value"}'


def read_file(file: Path) -> dict[str, Any]:
    """Returns a settings file's content; nothing where there is none.

    Raises:
        IsthmusError: it cannot be read as TOML.
    """
    try:
        return tomllib.loads(file.read_bytes().decode()) if file.is_file() else {}
    except UnicodeDecodeError as error:
        raise IsthmusError(f"{file} is not UTF-8 (byte {error.start}): save it in UTF-8") from None
    except ValueError as error:
        raise IsthmusError(f"{file} is not valid TOML: {error}") from None
    except OSError as error:
        raise IsthmusError(f"{file} cannot be read: {error.strerror}") from None


def lines_of(error: ValidationError, file: Path, names: Sequence[str], options: Mapping[str, str], section: str = "") -> list[str]:
    """A line for each problem, of one section or of all.

    `names`: all settings, dotted. `options`: of those that the command line gave, the option.
    """
    content = read_file(file)
    lines = []
    for problem in error.errors():
        name = ".".join(part for part in (section, *problem["loc"]) if part and isinstance(part, str))
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if problem["type"] == "extra_forbidden":
            nearest = get_close_matches(name, names, n=1)
            message = "there is no such setting: " + (
                f"did you mean {nearest[0]}?" if nearest else "`isthmus settings` prints those that exist"
            )
        lines.append(f"setting {name} ({_origin(name, file, content, options)}): {message}")
    return lines


def _origin(name: str, file: Path, content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """Where a setting's value is from, or the values of a section: option, variable or file."""
    given = [option for dotted, option in options.items() if _is_within(dotted, name) or _is_within(name, dotted)]
    if given and name in options:
        return given[0]
    variable = f"{PREFIX}{name.replace('.', '__')}".upper()
    environment = {key.upper() for key in os.environ}
    for exact in (variable, f"{variable}{FROM_FILE}"):
        if exact in environment:
            return exact
    found = [*given, *sorted(key for key in environment if key.startswith(f"{variable}__"))]
    whole = variable.rpartition("__")[0]
    while whole and not found:  # JSON of a section or mapping
        found = [whole] if whole in environment else []
        whole = whole.rpartition("__")[0]
    in_file: Any = content
    for part in name.split("."):
        in_file = in_file.get(part) if isinstance(in_file, Mapping) else None
    found += [str(file)] if in_file is not None else []
    return ", ".join(found) or f"{variable}, or in {file}"


def _is_within(name: str, section: str) -> bool:
    return name == section or name.startswith(f"{section}.")


def not_json(fields: Mapping[str, Any]) -> Iterator[str]:
    """A line for each variable of a section, list or mapping whose value is not JSON. `fields`: those of all settings, by name."""
    written_as_json: dict[str, str] = {}
    for name, field in fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        if keys is not None:
            written_as_json[name] = _OBJECT
            kinds = {key: get_origin(inner.annotation) for key, inner in keys.items()}
            written_as_json |= {
                f"{name}.{key}": _LIST if kind is tuple else _OBJECT for key, kind in kinds.items() if kind in {tuple, dict}
            }
    for name, example in written_as_json.items():
        variable = f"{PREFIX}{name.replace('.', '__')}".upper()
        value = os.environ.get(variable)
        try:
            json.loads(value or "null")
        except ValueError:
            yield f"setting {name} ({variable}): is not JSON; write it as {example}"
