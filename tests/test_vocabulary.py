"""Token ids and texts: inverse of each other, whatever the style of the tokenizer."""

from typing import Any

import pytest
import tiny
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as kinds
from transformers import PreTrainedTokenizerFast

from probenc_support.errors import InputError
from probenc_support.models.vocabulary import Vocabulary

BYTES = [f"<0x{i:02X}>" for i in range(256)]
PROSE = tiny.prose() + "\n\n  indented   text, 1234 times; caf\u00e9 \u65e5\u672c \U0001f600\n"


def byte_level() -> PreTrainedTokenizerFast:
    return tiny.tokenizer()


def _trained_bpe() -> dict[str, Any]:
    import json

    found = Tokenizer(kinds.BPE(unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", "<s>", *BYTES])
    found.train_from_iterator([PROSE.replace(" ", "\u2581")], trainer)
    return dict(json.loads(found.to_str())["model"])


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2: spaces as `\u2581`, one of them prepended, bytes for what is unknown."""
    model = _trained_bpe()
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in model["merges"]]
    bpe = kinds.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    found = Tokenizer(bpe)
    found.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    found.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=found, unk_token="<unk>", bos_token="<s>")


def metaspace() -> PreTrainedTokenizerFast:
    """The same vocabulary with the pre-tokenizer and decoder that newer files carry."""
    model = _trained_bpe()
    merges = [tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in model["merges"]]
    found = Tokenizer(kinds.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    found.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=found, unk_token="<unk>", bos_token="<s>")


def unigram() -> PreTrainedTokenizerFast:
    """As T5: a unigram model, a space prepended to every word."""
    found = Tokenizer(kinds.Unigram())
    found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    found.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>"], unk_token="<unk>"
    )
    found.train_from_iterator([PROSE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found, unk_token="<unk>", bos_token="<s>")


STYLES = {f.__name__: f for f in (byte_level, sentencepiece, metaspace, unigram)}


@pytest.fixture(params=STYLES, scope="module")
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    made = STYLES[request.param]()
    return Vocabulary(made, len(made))


def reachable(vocabulary: Vocabulary) -> set[int]:
    """Tokens that some text becomes: prose, and the text of every token by itself and within."""
    texts = [PROSE, *vocabulary.texts, *(f"a{text}" for text in vocabulary.texts)]
    return {
        i
        for text in texts
        for i in vocabulary.tokenizer(text, add_special_tokens=False)["input_ids"]
    }


def test_ids_and_texts_are_inverse_over_the_whole_vocabulary(vocabulary: Vocabulary) -> None:
    """TransformerLens#373: with a space prepended, "the" gave the id of " the"."""
    tokens = reachable(vocabulary)
    assert len(tokens) > 250
    wrong = {i: vocabulary.texts[i] for i in tokens if vocabulary.id_of(vocabulary.texts[i]) != i}
    assert not wrong


def test_texts_of_a_text_make_the_text(vocabulary: Vocabulary) -> None:
    text = "a word, and a  double space"
    ids = vocabulary.tokenizer(f"a {text}", add_special_tokens=False)["input_ids"]
    assert "".join(vocabulary.texts[i] for i in ids).strip() == f"a {text}"


def test_a_space_makes_another_token(vocabulary: Vocabulary) -> None:
    inside, start = vocabulary.id_of("e"), vocabulary.id_of(" the")
    assert vocabulary.texts[inside] == "e"
    assert vocabulary.texts[start] == " the"
    assert vocabulary.kind(start) == "word start"
    assert vocabulary.kind(inside) == "continuation"


def test_a_tokenizer_that_lowers_letters_has_no_capital_token() -> None:
    made = unigram()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    vocabulary = Vocabulary(made, len(made))
    letter = next(t for t in vocabulary.texts if len(t) == 1 and t.islower())
    assert vocabulary.texts[vocabulary.id_of(letter)] == letter
    with pytest.raises(InputError, match=r"is \d tokens of|is read as"):
        vocabulary.id_of("\u00c9COLE")


def test_gaps_in_a_vocabulary_leave_every_token_its_text() -> None:
    words = {"<unk>": 0, "one": 3, "two": 10, "three": 40}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(kinds.WordLevel(words, unk_token="<unk>")), unk_token="<unk>"
    )
    vocabulary = Vocabulary(made, 50)
    assert vocabulary.rows.tolist() == [0, 3, 10, 40]
    assert [vocabulary.texts[i].strip() for i in (3, 10, 40)] == ["one", "two", "three"]
    assert vocabulary.texts[41] == "<row 41>"
    assert Vocabulary(made, 12).without_row == [40]
