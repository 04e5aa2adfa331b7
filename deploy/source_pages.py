"""A hook of the documentation build: links from docs/ to files of the repository lead to a page that shows the file.

The same relative link works in a repository browser and on the site. A link to a file that no longer exists fails a strict build.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = "source"
"""Of the pages that show files, within the site."""
_LINK: Final = re.compile(r"(?<!!)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_LANGUAGES: Final = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash"}
logger = logging.getLogger("mkdocs.hooks.source_pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each repository file that a page links to, and for those that these link to."""
    pending = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    added: set[str] = set()
    while pending:
        page, text = pending.pop()
        for target in sorted(set(_targets(page, text)) - added):
            added.add(target)
            content = _content(target)
            files.append(File.generated(config, _page_of(target), content=content))
            pending.append((target, content if target.endswith(".md") else ""))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links to repository files lead to their pages, and hides a table of contents that would be empty."""
    del config, files
    here = page.file.src_uri
    if "\n## " not in markdown:
        page.meta["hide"] = ["toc"]
    written_in = here.removeprefix(f"{FOLDER}/") if here.startswith(f"{FOLDER}/") else f"docs/{here}"

    def rewritten(match: re.Match[str]) -> str:
        target = _resolved(written_in, match[1])
        to = target.removeprefix("docs/") if target.startswith("docs/") else _page_of(target)
        return f"]({posixpath.relpath(to, posixpath.dirname(here))}{match[2] or ''})"

    return _LINK.sub(rewritten, markdown)


def _targets(page: str, text: str) -> list[str]:
    """The files outside docs/ that a page links to; a missing one is a warning, which ends a strict build."""
    targets = [_resolved(page, match[1]) for match in _LINK.finditer(text)]
    outside = [target for target in targets if not target.startswith("docs/")]
    for target in outside:
        if not (ROOT / target).is_file():
            logger.warning("%s links to %s, which is no file of the repository", page, target)
    return [target for target in outside if (ROOT / target).is_file()]


def _resolved(page: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _page_of(target: str) -> str:
    return f"{FOLDER}/{target}" if target.endswith(".md") else f"{FOLDER}/{target}.md"


def _content(target: str) -> str:
    text = (ROOT / target).read_text()
    if target.endswith(".md"):
        return text
    language = _LANGUAGES.get(Path(target).suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n````{language}\n{text}\n````\n"
