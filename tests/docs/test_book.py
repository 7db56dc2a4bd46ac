"""The documentation as GitHub shows it and as `make docs` builds it: pictures, links, lists, docstrings."""

import re

import pytest
from bundle_helpers import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/*/docs/README.md")])
PICTURE = re.compile(r"!\[(.*?)\]\(([^)]+)\)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
HOOKS = ["docs/hooks/other_pages.py", "docs/hooks/github_markdown.py"]


def test_pictures_are_described():
    used = []
    for page in PAGES:
        for words, target in PICTURE.findall(page.read_text(encoding="utf-8")):
            assert len(words.split()) >= 3, f"{page}: {target}"
            used.append((page.parent / target).resolve())
    assert set(used) == set(ROOT.glob("docs/images/*"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_on_github(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


OTHERS = {
    "docs/more.md": "# More\n## Much\n",
    "bundles/knee/docs/README.md": "# Knee\n[all](../../../docs/more.md#much)\n",
    "CHANGELOG.md": "# Changes\n",
    "CONTRIBUTING.md": "# Contributing\n",
    "README.md": "which is no page of the book",
}


@pytest.fixture
def build(tmp_path):
    """Builds a small book round a first page, strictly: HTML by its place, or None where that ended the build."""
    commands = pytest.importorskip("mkdocs.commands.build")
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    def run(first, **settings):
        for name, text in (OTHERS | {"docs/index.md": first}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / "mkdocs.yml").write_text("site_name: book\nstrict: true\n", encoding="utf-8")
        hooks = [str(ROOT / name) for name in HOOKS]
        defaults = {"plugins": [], "hooks": hooks, "theme": "mkdocs", "validation": {"anchors": "warn"}}
        try:
            commands.build(load_config(str(tmp_path / "mkdocs.yml"), **(defaults | settings)))
        except Abort:
            return None
        site = tmp_path / "site"
        return {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}

    return run


def test_links_to_and_from_pages_that_lie_elsewhere(build):
    html = build("[knee](../bundles/knee/docs/README.md#knee) [new](../CHANGELOG.md) [x](https://example.org/a.md)\n")
    assert 'href="bundles/knee/#knee"' in html["index.html"] and 'href="changes/"' in html["index.html"]
    assert 'href="https://example.org/a.md"' in html["index.html"]
    assert 'href="../../more/#much"' in html["bundles/knee/index.html"]


@pytest.mark.parametrize(
    "link", ["gone.md", "more.md#little", "../README.md", "../bundles/hip/docs/README.md", "images/gone.png"]
)
def test_a_dead_link_ends_the_build(link, build):
    assert build("[there](more.md#much)\n") is not None
    assert build(f"[there]({link})\n") is None


def test_lists_as_github_reads_them(build):
    text = "So\n- one,\n  still one\n- two:\n\n      p = 1\n\n```\nx\n- no item\n```\n1. first\n   ```\n   y\n   ```\n"
    html = build(text, markdown_extensions=["pymdownx.superfences"])["index.html"]
    assert re.search(r"<li>\s*(<p>)?one,\s+still one", html)
    (item,) = re.findall(r"<ol>\s*<li>.*?</ol>", html, re.DOTALL)
    assert "<code>y" in item and "<code>p = 1" in html and "- no item" in html


def test_a_missing_docstring_ends_the_build(build, tmp_path):
    pytest.importorskip("mkdocstrings")

    def built(docstring):
        code = f'"""A package."""\n\n__all__ = ["one"]\n\n\ndef one() -> None:\n    {docstring}\n    return None\n'
        (tmp_path / "knees.py").write_text(code, encoding="utf-8")
        python = {"paths": ["."], "options": {"extensions": [str(ROOT / "docs/hooks/docstrings.py")]}}
        return build("# One\n::: knees\n", plugins=[{"mkdocstrings": {"handlers": {"python": python}}}])

    assert built("") is None
    assert "One knee." in built('"""One knee."""')["index.html"]
