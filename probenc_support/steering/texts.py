"""The texts of section 3: one to fit and choose on, others that judge, and none that do both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from probenc_support import corpora
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError

_PARAMETERS = {"ood": "eval_corpus", "near": "near_corpus"}


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts of which no two share a document or a paragraph."""

    detecting: TokenBlocks
    """What everything is fitted and chosen on."""
    judging: Mapping[str, TokenBlocks]
    """What is judged on, by domain: `id`, other documents of the detecting corpus, and where they
    are given `ood`, another domain, and `near`, a domain near the detecting one."""
    calibration: Mapping[str, TokenBlocks]
    """Further text that the robust direction is fitted to, by the name of its corpus."""

    @property
    def summary(self) -> str:
        """Their sizes, and what was left out to keep them apart, in Markdown."""
        of_each = max((text.n_positions for text in self.calibration.values()), default=0)
        further = [text for name, text in self.judging.items() if name != "id"]
        left_out = [
            f"{text.n_left_out:,} document{'s' * (text.n_left_out > 1)} of `{text.corpus}`"
            for text in (*further, *self.calibration.values())
            if text.n_left_out
        ]
        return (
            f"Everything is fitted and chosen on {_positions(self.detecting)}"
            + (f" and {of_each:,} of each calibration corpus" if of_each else "")
            + f", and judged on {', '.join(map(_positions, self.judging.values()))}. No two of "
            "these texts share a document or a paragraph. "
            + (
                f"Left out for that: {', '.join(left_out)}."
                if left_out
                else "Nothing was left out."
            )
        )


def _positions(text: TokenBlocks) -> str:
    return f"{text.n_positions:,} positions of `{text.corpus}`"


def judging_corpora(named: Mapping[str, str], calibration: Sequence[str]) -> dict[str, str]:
    """The corpora that judge, by domain (`ood`, `near`), without those that are not given.

    Args:
        named: corpus or an empty text, by domain.
        calibration: corpora that a direction is fitted on.

    Raises:
        InputError: one is a calibration corpus as well, or stands for both domains.
    """
    given = {domain: corpus for domain, corpus in named.items() if corpus}
    for domain, corpus in given.items():
        if corpus in calibration:
            raise InputError(
                f"{corpus!r} is both {_PARAMETERS[domain]} and a calibration corpus; what a "
                "direction was fitted on cannot judge it, so take it out of one of them."
            )
    if len(set(given.values())) < len(given):
        raise InputError(
            f"{given['near']!r} is both eval_corpus and near_corpus; leave near_corpus empty."
        )
    return given


def take(
    corpus: str,
    tokenizer: PreTrainedTokenizerBase,
    judging: Mapping[str, str],
    calibration: Sequence[str],
    *,
    n_positions: int,
    calibration_positions: int,
    sequence_length: int,
    context_length: int,
) -> Texts:
    """Takes the texts one after the other, each without what shares text with those before it.

    Args:
        corpus: the detecting corpus, of which `n_positions` are fitted on and further documents,
            a quarter of that, are the domain `id`.
        judging: corpora by domain, see `judging_corpora`; as many positions of `ood` as are fitted
            on, and a quarter of that of any other.
        calibration_positions: of each calibration corpus; at least one block is taken.

    Raises:
        InputError: see `corpora.blocks` and `corpora.parts`.
    """
    n_judging = max(n_positions // 4, sequence_length)
    taken = corpora.parts(
        corpus,
        tokenizer,
        sizes=[n_positions, n_judging],
        sequence_length=sequence_length,
        context_length=context_length,
    )

    def further(name: str, n: int) -> TokenBlocks:
        text = corpora.blocks(
            name,
            tokenizer,
            n_positions=n,
            sequence_length=sequence_length,
            context_length=context_length,
            exclude=taken,
        )
        taken.append(text)
        return text

    detecting, other_documents = taken
    judges = {
        domain: further(name, n_positions if domain == "ood" else n_judging)
        for domain, name in judging.items()
    }
    n_calibration = max(calibration_positions, sequence_length)
    calibrating = {name: further(name, n_calibration) for name in calibration}
    corpora.check_apart(*taken)
    return Texts(detecting, {"id": other_documents, **judges}, calibrating)
