"""rxn-albert out of its wheel: every weight in its place, its tokens, what it was trained for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AlbertForMaskedLM, AutoModelForMaskedLM, AutoTokenizer

from probenc_support import cache, corpora, inference, models
from probenc_support.errors import InputError
from probenc_support.models import fetching, rxn_albert, untrained
from probenc_support.roster import ROSTER

REACTIONS = (
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
    "C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
    "CC[O-]~[Na+].BrCC.[Na+]~[H-]>>CCOCC",
    "N[C@@H](Cc1ccc(I)cc1)C(=O)O.OB(O)/C=C/C1CC%10CC1C%10>>[13CH3][Si](C)(C)C#N",
)
"""The examples that the package's own documentation gives, and one of rarer tokens."""

VOCABULARY = [
    "[PAD]", *(f"[unused{i}]" for i in range(1, 11)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", "c", "C",
    "(", ")", "O", "1", "2", "=", "N", ".", ">>", "~", "Br", "Cl", "[Na+]",
]  # fmt: skip


def pieces(text: str) -> list[str]:
    """A SMILES in its tokens, read from left to right by hand, without `rxn_albert.SPLIT`."""
    found, at = [], 0
    while at < len(text):
        if text[at] == "[":
            end = text.index("]", at) + 1
        elif text[at : at + 2] in ("Br", "Cl", ">>"):
            end = at + 2
        elif text[at] == "%":
            end = at + 3
        else:
            end = at + 1
        found.append(text[at:end])
        at = end
    return found


def tiny(folder: Path, **changed: Any) -> Path:
    """A file of weights as the package has it, of a smaller model; returns its path."""
    settings = {
        "vocab_size": len(VOCABULARY), "embedding_size": 8, "hidden_size": 16,
        "num_hidden_layers": 2, "num_hidden_groups": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "inner_group_num": 1, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 32, "type_vocab_size": 2, "initializer_range": 0.2,
        "layer_norm_eps": 1e-12, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    made = AlbertForMaskedLM(rxn_albert.AlbertConfig(**settings))
    torch.nn.init.normal_(made.predictions.bias)
    state = made.state_dict() | {
        "albert.pooler.weight": torch.zeros(16, 16), "albert.pooler.bias": torch.zeros(16)
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    torch.save(state, folder / "pytorch_model.bin")
    old = settings | {"torchscript": False, "eos_token_ids": 0, "num_beams": 1} | changed
    (folder / "config.json").write_text(json.dumps(old))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder / "pytorch_model.bin"


@pytest.fixture(scope="session")
def rxn() -> Any:
    """The real model, out of the package index."""
    try:
        return models.load("rxn-albert", device="cpu", dtype="float32")
    except InputError as error:
        pytest.skip(f"the model cannot be had: {error}")


# ---------------------------------------------------------------------------------- conversion


def test_a_converted_folder_holds_the_same_model(own_cache: Path, tmp_path: Path) -> None:
    path = tiny(tmp_path / "wheel")
    folder = rxn_albert.convert(path, tmp_path / "made")
    model, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), "nothing missing, nothing left over"
    state = torch.load(path, weights_only=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    lm = models.load(folder)
    assert lm.kind.name == "masked"
    assert lm.context_length == 30
    assert torch.equal(lm.b, state["predictions.bias"])
    assert lm.E.shape == (len(VOCABULARY), 8)


@pytest.mark.parametrize("changed", [{"num_attention_heads": 3}, {"hidden_size": 8}])
def test_weights_of_another_architecture_are_refused(
    own_cache: Path, tmp_path: Path, changed: dict[str, int]
) -> None:
    with pytest.raises(InputError, match="does not hold the weights of the model"):
        rxn_albert.convert(tiny(tmp_path / "wheel", **changed), tmp_path / "made")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("wrong", ["predictions.dense.weight", "albert.more.weight"])
def test_a_weight_too_few_or_too_many_is_refused(
    own_cache: Path, tmp_path: Path, wrong: str
) -> None:
    path = tiny(tmp_path / "wheel")
    state = torch.load(path, weights_only=True)
    if state.pop(wrong, None) is None:
        state[wrong] = torch.zeros(2)
    torch.save(state, path)
    with pytest.raises(InputError, match=re.escape("does not hold the weights")):
        rxn_albert.convert(path, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_code_in_a_weight_file_is_not_run(own_cache: Path, tmp_path: Path) -> None:
    path = tiny(tmp_path / "wheel")
    torch.save({"albert": Path("code")}, path)
    with pytest.raises(InputError, match="does not hold the weights"):
        rxn_albert.convert(path, tmp_path / "made")


# ------------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize("text", REACTIONS)
def test_a_reaction_is_split_where_it_is_by_hand(text: str) -> None:
    there = list(dict.fromkeys(pieces(text)))
    made = rxn_albert.tokenizer([*VOCABULARY[:15], *there], longest=510)
    assert made.convert_ids_to_tokens(made(text)["input_ids"]) == ["[CLS]", *pieces(text), "[SEP]"]
    assert re.findall(rxn_albert.SPLIT, text) == pieces(text)
    ids = made(text, add_special_tokens=False)["input_ids"]
    assert made.decode(ids, clean_up_tokenization_spaces=False) == text


def test_what_is_no_smiles_is_unknown_and_not_lost() -> None:
    made = rxn_albert.tokenizer(VOCABULARY, longest=510)
    assert made.tokenize("C{CO}") == ["C", "[UNK]", "C", "O", "[UNK]"]
    assert made.tokenize("CO\n\nCN") == ["C", "O", "[SEP]", "C", "N"], "between two reactions"


def test_documents_are_parted_by_the_token_that_ends_one(tmp_path: Path) -> None:
    path = tmp_path / "some.txt"
    path.write_text("CCO>>CC=O\n\nCC=O>>CCO\n" * 40)
    made = rxn_albert.tokenizer(VOCABULARY, longest=510)
    ids = corpora.blocks(str(path), made, n_positions=64, sequence_length=32).ids.flatten()
    ends = (ids == VOCABULARY.index("[SEP]")).sum()
    assert int(ends) == 64 // len([*pieces("CCO>>CC=O"), "[SEP]"])


# ------------------------------------------------------------------------------- the model itself


def test_the_roster_knows_it() -> None:
    kind, _, distribution = ROSTER["rxn-albert"].source.partition(":")
    assert (kind, fetching.WHEELS[distribution]) == ("wheel", rxn_albert.WHEEL)


@pytest.mark.real_model
def test_the_real_vocabulary_reads_as_by_hand(rxn: Any) -> None:
    known = rxn.tokenizer.get_vocab()
    for text in REACTIONS:
        ids = rxn.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == [known.get(piece, known["[UNK]"]) for piece in pieces(text)]
    assert (rxn.V, rxn.d, rxn.tied) == (591, 128, True)
    assert rxn.b is not None
    assert cache.entries(), "it is listed"


@pytest.mark.real_model
def test_it_restores_reactions_and_neither_noise_nor_without_training(rxn: Any) -> None:
    """Single reactions, each token masked: what it was trained for."""
    plain = AutoTokenizer.from_pretrained(rxn.model.config._name_or_path)

    def perplexity(lm: Any, texts: list[list[int]]) -> float:
        losses = []
        for ids in texts:
            block = torch.tensor([ids])
            log_p = torch.log_softmax(models.logits(lm, block)[0], dim=1)
            losses.append(-log_p[torch.arange(len(ids)), block[0]])
        return float(torch.cat(losses).mean().exp())

    texts = [plain(text, add_special_tokens=False)["input_ids"] for text in REACTIONS[:3]]
    generator = torch.Generator().manual_seed(0)
    mixed = [[ids[i] for i in torch.randperm(len(ids), generator=generator)] for ids in texts]
    assert perplexity(rxn, texts) < 2
    assert perplexity(rxn, mixed) > 20
    assert perplexity(untrained.twin(rxn), texts) > 200


@pytest.mark.real_model
def test_reactions_enumerated_here_are_what_it_knows(rxn: Any, own_cache: Path) -> None:
    chem = pytest.importorskip("rdkit.Chem", reason="the optional package rdkit is absent")
    from probenc_support.corpora import reaction_classes, reactions

    assert chem
    some = list(reactions.read(["NCc1ccccc1", "OC(=O)c1ccncc1", "Brc1ccc(C)cc1", "C1CCNCC1",
                                "OC(=O)CCC(C)C", "Nc1ccc(OC)cc1", "CCOC(=O)CC(C)C"]))  # fmt: skip
    kinds = reaction_classes.USUAL[:5]
    texts = [str(r) for kind in kinds for r in reactions.reactions_of(kind, some, per_class=4)]
    ids = [rxn.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    flat = torch.tensor([i for row in ids for i in [*row, rxn.tokenizer.sep_token_id]])
    blocks = corpora.from_ids(flat[: len(flat) // 128 * 128].view(-1, 128), corpus="some")
    assert inference.detect(rxn, blocks, progress=False).perplexity < 4
