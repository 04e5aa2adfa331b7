"""The cache keys of a benchmark cover all code that its results depend on."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.services.dataset_cache import example_sources, training_sources

ROOT = Path(__file__).parents[2]
NOT_IN_RESULTS = {
    "stream/errors.py",  # says what went wrong
    "training/progress.py",  # shows how far training is
}
PLOTS_AND_REPORTS = {
    f"training/{name}.py"
    for name in ("plots", "markdown", "evaluation/benchmark", "evaluation/benchmark_report", "evaluation/trust_tables")
}


def imports_of(path: Path) -> Iterator[Path]:
    """Yields the project's modules that a module imports at any level, with those named as strings for `import_module`."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            module = ROOT / f"{name.replace('.', '/')}.py"
            if name.split(".")[0] in {"stream", "models", "training"} and module.exists():
                yield module


def closure(*roots: str) -> set[str]:
    """Returns the files that are imported, directly or not, by modules given as paths."""
    seen: set[Path] = set()
    due = [ROOT / root for root in roots]
    while due:
        module = due.pop()
        if module not in seen:
            seen.add(module)
            due += imports_of(module)
    return {module.relative_to(ROOT).as_posix() for module in seen}


def relative(paths: list[Path]) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in paths}


def of_package(files: set[str], *packages: str) -> set[str]:
    return {file for file in files if file.startswith(tuple(f"{package}/" for package in packages))}


def test_the_code_key_covers_every_module_that_trains_and_evaluates() -> None:
    """And no other: a module that was dropped or renamed would leave old results in place. The data key covers the core."""
    needed = (
        of_package(
            closure("training/train_system.py", "training/metrics.py", "training/evaluation/explanations.py"), "training", "models"
        )
        - NOT_IN_RESULTS
    )
    listed = relative(training_sources())
    assert needed <= listed
    assert of_package(listed, "training") - needed == {"training/split.py"}  # which events are the test part


def test_the_code_key_of_an_ablation_covers_the_ablation() -> None:
    """Its plots and reports do not change a result."""
    needed = closure(
        "training/train_system.py",
        "training/metrics.py",
        "training/evaluation/explanations.py",
        "training/evaluation/modality_ablation.py",
    )
    needed = of_package(needed, "training", "models") - NOT_IN_RESULTS - PLOTS_AND_REPORTS
    assert needed <= relative(training_sources("thin"))


def test_the_data_key_covers_every_module_that_makes_examples() -> None:
    """From the tables' files to the encoder stage and the step."""
    needed = closure(
        "training/datasets/examples_from_tables.py", "training/datasets/example_file.py", "stream/text/encode_stage.py"
    )
    assert needed - NOT_IN_RESULTS <= relative(example_sources())


@pytest.mark.parametrize("sources", [training_sources("thin"), example_sources()], ids=["training", "examples"])
def test_every_file_in_a_key_exists(sources: list[Path]) -> None:
    """A missing one would be an error at the first use; here it is one before."""
    assert [path for path in sources if not path.is_file()] == []
