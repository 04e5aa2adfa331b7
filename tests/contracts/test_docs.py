"""The documentation site builds strictly, leads nowhere that does not exist, and asks no other host for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICTURE_BYTES = 300_000
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it, but elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_builds_strictly_and_has_every_page(site: Path) -> None:
    """A broken link, a missing anchor and a page outside the navigation are warnings, and a strict build fails on a warning."""
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= {path.relative_to(site) for path in site.rglob("*.html")}


def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    """Scripts, styles, fonts and pictures are all its own: links are the only addresses that leave it."""
    loaded = re.compile(r"""<(?:script|img|iframe|source)[^>]+src=["']?(https?:[^"' >]+)|<link[^>]+href=["']?(https?:[^"' >]+)""")
    imported = re.compile(r"""(?:url\(|@import\s)["']?(https?:[^"')]+)""")
    pages = {path: loaded.findall(path.read_text()) for path in site.rglob("*.html")}
    styles = {path: imported.findall(path.read_text()) for path in [*site.rglob("*.css"), *site.rglob("*.svg")]}
    assert [path for path, found in (pages | styles).items() if found] == []


def test_pictures_are_small() -> None:
    """They are tracked files, and everybody clones them."""
    assert [path.name for path in (ROOT / "docs" / "img").iterdir() if path.stat().st_size > PICTURE_BYTES] == []


@pytest.mark.parametrize("page", sorted(path.name for path in ROOT.glob("*.md")))
def test_links_of_the_pages_at_the_top_lead_somewhere(page: str) -> None:
    """They are not part of the site's navigation, so that the build does not look at all of them."""
    links = _LINK.findall((ROOT / page).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []
