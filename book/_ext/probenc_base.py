"""What the book's directives and roles share: pages that use them are read at every build."""

from pathlib import Path

from docutils import nodes
from probenc_html import link_to, raw
from sphinx.util.docutils import SphinxDirective, SphinxRole


class BookDirective(SphinxDirective):
    """Base: the page is read again whenever the book is built, since the runs may have changed."""

    optional_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        return self.content_nodes()

    def content_nodes(self) -> list[nodes.Node]:
        raise NotImplementedError

    def link(self, target: Path, words: str, anchor: str = "") -> str:
        return link_to(self.env.docname, target, words, anchor)

    def claims_page(self, words: str, anchor: str = "") -> str:
        return self.link(Path("book/claims.html"), words, anchor)


class BookRole(SphinxRole):
    """Base: as `BookDirective`, for what stands in a sentence."""

    absent = ""
    """What the sentence says where nothing is found."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        self.env.note_reread()
        found = self.shown()
        return [nodes.emphasis("", self.absent) if found is None else raw(found)], []

    def shown(self) -> str | None:
        raise NotImplementedError
