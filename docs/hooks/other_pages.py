"""Pages of the book that lie elsewhere in the repository, and links to and from them.

Links are written as GitHub follows them, from file to file; here each becomes one from page to page.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
PAGES = {"CHANGELOG.md": "changes.md", "CONTRIBUTING.md": "contributing.md"}  # file of the repository: page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add those pages."""
    for source, page in _pages(config).items():
        files.append(File.generated(config, page, abs_src_path=str(_root(config) / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files into links between pages; those that lead to no page stay, which MkDocs refuses."""
    pages = _pages(config)
    place = next((source for source, name in pages.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")

    def follow(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link[1]))
        name = pages.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        return link[1] if name is None else posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(follow, markdown)


def _pages(config: MkDocsConfig) -> dict[str, str]:
    """File of the repository: page."""
    root = _root(config)
    readmes = [path.relative_to(root).as_posix() for path in root.glob("bundles/*/docs/README.md")]
    return PAGES | {name: f"bundles/{name.split('/')[1]}.md" for name in readmes}


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent
