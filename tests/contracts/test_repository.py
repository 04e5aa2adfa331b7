"""The repository's habits: what runs before a commit, what a wheel holds, how long the README is."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_the_pre_commit_hooks_are_what_make_lint_runs() -> None:
    """In the same order, and none of them comes from another repository, so that nothing is downloaded."""
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    commands = [line.strip().removeprefix("@") for line in recipe[1].splitlines()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == commands


def test_each_package_says_that_it_is_typed() -> None:
    """With the marker file of PEP 561, which a wheel must hold."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = [pattern.removesuffix("*") for pattern in setuptools["packages"]["find"]["include"]]
    assert [package for package in packages if not (ROOT / package / "py.typed").exists()] == []
    assert {package for package, files in setuptools["package-data"].items() if "py.typed" in files} == set(packages)


def test_the_readme_is_short() -> None:
    """What it cannot say in 120 lines belongs to the documentation."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_every_pinned_package_has_one_line_in_order() -> None:
    """So that a merge cannot leave two versions of one package."""
    names = [line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()]
    assert names == sorted(set(names))
