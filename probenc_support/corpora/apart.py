"""Text kept apart from other text: documents that share long runs of words with it are left out."""

import itertools
from collections.abc import Iterable, Iterator, Set

from probenc_support.corpora.built_in_texts import fingerprint
from probenc_support.corpora.texts import divisions
from probenc_support.corpora.token_blocks import TokenBlocks
from probenc_support.errors import InputError

_TELLING = 40
"""Characters that a paragraph must have to count as text that two documents share; shorter ones
recur in many documents."""


_SAME = 0.75
"""Share of a document that must be left when shared paragraphs are taken out; else it counts as
the same document."""


def fingerprints(document: str) -> frozenset[int]:
    """What identifies a document: 64-bit hashes of it and of its paragraphs, if 40 characters long.

    White space does not count. A document that is one paragraph counts by its lines.
    """
    telling = filter(_is_telling, divisions(document))
    return frozenset(map(fingerprint, [document, *telling]))


def _is_telling(paragraph: str) -> bool:
    return len(" ".join(paragraph.split())) >= _TELLING


def check_apart(*several: TokenBlocks) -> None:
    """Checks that no document or paragraph lies in two of some token blocks.

    Raises:
        InputError: two share text, or the text of one is not known.
    """
    for one, other in itertools.combinations(several, 2):
        if one.sources is None or other.sources is None:
            unknown = one if one.sources is None else other
            raise InputError(
                f"Only the tokens of {unknown.corpus} are known, so it cannot be checked whether "
                "it shares text with another: make it by corpora.blocks or corpora.parts."
            )
        if one.sources & other.sources:
            raise InputError(
                f"{one.corpus} and {other.corpus} share text, so what is chosen on one cannot be "
                "judged on the other: make them by corpora.parts, or exclude one from the other."
            )


def to_avoid(exclude: Iterable[TokenBlocks | Set[int]]) -> Set[int]:
    """Fingerprints of all texts that are to be left out.

    Args:
        exclude: token blocks, or fingerprints of documents.

    Raises:
        InputError: of some blocks only the tokens are known.
    """
    avoided: set[int] = set()
    for other in exclude:
        sources = other.sources if isinstance(other, TokenBlocks) else other
        if sources is None:
            raise InputError(
                f"Only the tokens of {getattr(other, 'corpus', 'a corpus')} are known, so its text "
                "cannot be left out of another: make it by corpora.blocks."
            )
        avoided |= sources
    return avoided


def apart_from(avoided: Set[int], documents: Iterable[str]) -> Iterator[str]:
    """Documents, with an empty string in place of those that share text with what is avoided.

    Of a document that shares less than a quarter of its text, only those paragraphs are taken out.

    Args:
        avoided: fingerprints.
    """
    left_out = kept = False
    for document in documents:
        rest = _apart(avoided, document) if avoided else document
        yield rest if kept or not left_out else rest.lstrip()
        kept |= bool(rest)
        left_out |= not rest


def _apart(avoided: Set[int], document: str) -> str:
    """A document without the paragraphs that are to be avoided.

    Where these are more than a quarter of it, it counts as the same document and nothing is left;
    where they are less, they are what many documents share, such as a licence.
    """
    if not document.strip() or not fingerprints(document) & avoided:
        return document
    if fingerprint(document) in avoided:
        return ""
    kept = [p for p in divisions(document) if not _is_telling(p) or fingerprint(p) not in avoided]
    rest = "".join(kept)
    return rest if len(rest) >= _SAME * len(document) else ""
