"""The text that small models are trained on: tokenizer, token ids, and what is kept out of it."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from probenc_support import cache, corpora
from probenc_support.corpora import apart, built_in_texts, encoding
from probenc_support.errors import InputError
from probenc_support.models.recipes import VERSION, Recipe

END_OF_TEXT = "<|endoftext|>"
"""Token 0. It never occurs in the training text: documents are joined by an empty line, and where
the text happens to contain these characters they are tokenised as text."""


CHARACTERS_PER_TOKEN = 6
"""Text read for each token that a run trains on; a byte-level BPE makes tokens of about 4."""


@dataclass(frozen=True, eq=False)
class Text:
    """A training text, tokenised by a tokenizer of its own."""

    corpus: str
    """As the person named it."""
    hash: str
    """SHA-256 of the characters that were read, and of those that are held out."""
    tokenizer: PreTrainedTokenizerFast
    train: NDArray[np.int64]
    """[n_train, T] blocks that are trained on."""
    sources: frozenset[int]
    """Fingerprints of the documents that they and the tokenizer are made of."""
    plan: NDArray[np.int64] | None = None
    """[steps * batch_size] rows of `train` in the order in which a run reads them; None: `order`
    draws it."""

    def order(self, recipe: Recipe, seed: int, step: int) -> NDArray[np.int64]:
        """[batch_size] rows of `train` for the step after `step`: a new permutation an epoch, where
        there is no plan.

        It is a function of its arguments alone, so that a resumed run reads the same text.
        """
        first = step * recipe.batch_size
        if self.plan is not None:
            return self.plan[first : first + recipe.batch_size]
        places = [divmod(row, len(self.train)) for row in range(first, first + recipe.batch_size)]
        return np.array([_permutation(len(self.train), seed, epoch)[i] for epoch, i in places])

    def counts(self, recipe: Recipe, seed: int, step: int | None = None) -> NDArray[np.int64]:
        """How often each token was trained on in the first `step` steps (all): [V] int64."""
        seen = np.zeros(len(self.train), dtype=np.int64)
        for before in range(recipe.steps if step is None else step):
            np.add.at(seen, self.order(recipe, seed, before), 1)
        return np.bincount(
            self.train.ravel(), np.repeat(seen, self.train.shape[1]), minlength=recipe.ids
        ).astype(np.int64)


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(n)


def train_tokenizer(documents: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer like Pythia's, with at most `vocabulary` tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT
    )


def documents_of(corpus: str, characters: int) -> list[str]:
    documents, length = [], 0
    for document in corpora.stream(corpus):
        documents.append(document)
        length += len(document)
        if length >= characters:
            break
    return documents


def hash_of(*several: list[str]) -> str:
    digest = hashlib.sha256()
    for documents in several:
        for document in documents:
            digest.update(document.encode(errors="surrogatepass") + b"\0")
        digest.update(b"\0")
    return digest.hexdigest()


def prepare(recipe: Recipe, corpus: str = "docstrings") -> Text:
    """Reads a corpus, trains the tokenizer on it and cuts it into blocks; kept in the cache.

    Documents that are held out take part in neither, nor does any paragraph of theirs: about one
    document in 16, which its text decides (`built_in_texts.is_held_out`), and of docstrings all of
    the corpus `docstrings:held-out`.

    Raises:
        InputError: no such corpus, or too little text for one batch.
    """
    documents = documents_of(corpus, recipe.tokens * CHARACTERS_PER_TOKEN)
    kept_out = held_out(corpus, documents)
    digest = hash_of(documents, kept_out)
    sizes = f"{recipe.vocabulary}-{recipe.sequence_length}-{recipe.tokens}"
    key = f"text-{digest[:12]}-{sizes}-v{VERSION}"
    folder = cache.cache_dir() / "training" / key
    with cache.locked(key):
        if not folder.is_dir():
            with cache.atomic_path(folder) as temporary:
                _write_text(temporary, _without(kept_out, documents), recipe, corpus)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    blocks = np.load(folder / "blocks.npy").astype(np.int64)
    return Text(corpus, digest, tokenizer, blocks, _read_sources(folder))


def held_out(corpus: str, documents: list[str]) -> list[str]:
    """Documents that are kept out of training; of docstrings also all of `docstrings:held-out`."""
    own = corpus == "docstrings" or corpus.startswith("docstrings:")
    beside = corpora.stream(f"docstrings:{built_in_texts.HELD_OUT}") if own else ()
    return [*filter(built_in_texts.is_held_out, documents), *beside]


def blocks_of(
    text: Text, corpus: str, n_blocks: int, *, fewest: int | None = None
) -> tuple[NDArray[np.int64], frozenset[int]]:
    """The first blocks [n_blocks, T] of another corpus in the tokens of a text, and fingerprints of
    its documents. What would be held out of training on that corpus is left out.

    Args:
        fewest: so many blocks are enough where the corpus has no more; None: all are needed.

    Raises:
        InputError: no such corpus, or it has too little text.
    """
    length = text.train.shape[1]
    documents = documents_of(corpus, n_blocks * length * CHARACTERS_PER_TOKEN)
    documents = _without(held_out(corpus, documents), documents)
    ids = _first_tokens(text.tokenizer, documents, n_blocks * length)
    needed = (n_blocks if fewest is None else fewest) * length
    if len(ids) < needed:
        raise InputError(
            f"The corpus {corpora.label(corpus)} has {len(ids):,} tokens beside what is held out, "
            f"and {needed:,} are to be read of it: name a longer one, or train for fewer steps."
        )
    sources = frozenset().union(*map(corpora.fingerprints, documents))
    whole = ids[: len(ids) // length * length]
    return whole.reshape(-1, length).astype(np.int64), sources


def _without(held_out: list[str], documents: list[str]) -> list[str]:
    """Documents, without those that share text with what is held out (see `corpora.blocks`)."""
    avoided: frozenset[int] = frozenset().union(*map(corpora.fingerprints, held_out))
    return [document for document in apart.apart_from(avoided, documents) if document]


def _write_text(folder: Path, documents: list[str], recipe: Recipe, corpus: str) -> None:
    tokenizer = train_tokenizer(documents, recipe.vocabulary)
    ids = _first_tokens(tokenizer, documents, recipe.tokens + recipe.sequence_length)
    count = len(ids) // recipe.sequence_length
    if count < 2 * max(recipe.batch_size, 2):
        raise InputError(
            f"The corpus {corpus} has {len(ids)} tokens beside what is held out, too few to train "
            f"{recipe.name} on: give at least {2 * max(recipe.batch_size, 2)} blocks of "
            f"{recipe.sequence_length}."
        )
    blocks = ids[: count * recipe.sequence_length].astype(np.int32)
    tokenizer.save_pretrained(folder)
    np.save(folder / "blocks.npy", blocks.reshape(count, recipe.sequence_length))
    sources = frozenset().union(*map(corpora.fingerprints, documents))
    np.save(folder / "sources.npy", np.array(sorted(sources), dtype=np.uint64))


def _first_tokens(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], wanted: int
) -> NDArray[np.int64]:
    parts, count = [], 0
    for ids in encoding.encode_documents(tokenizer, documents):
        parts.append(ids)
        count += len(ids)
        if count >= wanted:
            break
    return np.concatenate([*parts, np.zeros(0, dtype=np.int64)])[:wanted]


def _read_sources(folder: Path) -> frozenset[int]:
    return frozenset(np.load(folder / "sources.npy", allow_pickle=False).tolist())


def sources(folder: Path) -> frozenset[int]:
    """Fingerprints of the documents that a complete run here was trained on.

    Raises:
        InputError: the run was made before whole documents were held out.
    """
    if not (folder / "sources.npy").is_file():
        raise InputError(
            f"{folder} was trained by an earlier version, which did not record the text that it "
            "was trained on: train it again, or read its embeddings only (embedding_only)."
        )
    return _read_sources(folder)
