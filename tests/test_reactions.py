"""The corpus of reactions: chemistry that adds up, classes held apart, the same in every run."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from probenc_support import cache, corpora
from probenc_support.corpora import built_in_texts, reaction_classes, reactions
from probenc_support.errors import InputError

ALL = (*reaction_classes.USUAL, *reaction_classes.HELD_OUT)

SOME = [
    "CC(=O)c1ccc(Br)cc1", "NCc1ccccc1", "OC(=O)c1ccncc1", "OCCc1ccccc1", "O=Cc1ccccc1F",
    "Oc1ccc(C)cc1", "ClCc1ccccc1", "Brc1ccc(C)cc1", "C1CCNCC1", "Nc1ccc(OC)cc1", "CCOC(=O)CC(C)C",
    "Cc1ccc([N+](=O)[O-])cc1", "Fc1ccc([N+](=O)[O-])cc1", "SCc1ccccc1", "CSc1ccccc1", "CCO",
    "OC(=O)CCC(C)C", "O=C1CCCCC1", "CCCCBr", "COc1ccc(C#N)cc1", "ClCCl", "[Na+].[Cl-]", "C[N+](C)C",
]  # fmt: skip
"""Molecules with one group that reacts; the last four are too small, of two parts, or charged."""


@pytest.fixture(scope="module")
def chem() -> Any:
    return pytest.importorskip("rdkit.Chem", reason="the optional package rdkit is absent")


@pytest.fixture(scope="module")
def molecules(chem: Any) -> list[Any]:
    return list(reactions.read([*SOME, *SOME]))


@pytest.fixture
def without_rdkit(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise reactions.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(reactions.importlib.metadata, "version", absent)


def made(kind: Any, molecules: list[Any], *, per_class: int = 8) -> list[Any]:
    return list(reactions.reactions_of(kind, molecules, per_class=per_class))


def test_molecules_are_neutral_of_one_part_and_there_once(chem: Any, molecules: list[Any]) -> None:
    written = [chem.MolToSmiles(m) for m in molecules]
    assert written == [chem.CanonSmiles(smiles) for smiles in SOME if smiles not in SOME[-3:]
                       and chem.MolFromSmiles(smiles).GetNumHeavyAtoms() >= 4]  # fmt: skip


@pytest.mark.parametrize("kind", ALL, ids=[kind.name for kind in ALL])
def test_every_class_has_reactions_whose_carbon_comes_from_the_precursors(
    chem: Any, molecules: list[Any], kind: Any
) -> None:
    """No element but hydrogen and oxygen may be more in the product than in all that went in."""
    found = made(kind, molecules)
    assert found, "the molecules above have what it needs"
    for reaction in found:
        whole = [chem.MolFromSmiles(compound) for compound in reaction.precursors]
        product = chem.MolFromSmiles(reaction.product)
        assert None not in (*whole, product), "all are chemistry"
        assert chem.MolToSmiles(product) == reaction.product, "canonical"
        atoms = [a.GetSymbol() for m in whole for a in m.GetAtoms()]
        for element in {a.GetSymbol() for a in product.GetAtoms()} - {"O"}:
            there = sum(a.GetSymbol() == element for a in product.GetAtoms())
            assert there <= atoms.count(element)


def test_a_reaction_that_a_chemist_would_write(molecules: list[Any]) -> None:
    by_name = {kind.name: kind for kind in ALL}
    expected = {
        "amide coupling": "O=C(NCc1ccccc1)c1ccncc1",
        "Suzuki coupling": "Cc1ccc(-c2ccccc2)cc1",
        "Boc removal": "NCc1ccccc1",
        "Heck coupling": "COC(=O)/C=C/c1ccc(C)cc1",
        "thioether synthesis": "c1ccc(CSCc2ccccc2)cc1",
        "nitro reduction": "Cc1ccc(N)cc1",
        "oxidation of a thioether": "CS(=O)(=O)c1ccccc1",
    }
    for name, product in expected.items():
        products = {reaction.product for reaction in made(by_name[name], molecules, per_class=400)}
        assert product in products, name


def test_a_group_that_occurs_twice_does_not_react(chem: Any) -> None:
    amide = next(kind for kind in ALL if kind.name == "amide coupling")
    two_acids = list(reactions.read(["OC(=O)CCCC(=O)O", "NCc1ccccc1"]))
    assert made(amide, two_acids) == []


def test_parts_of_a_compound_are_held_together_and_order_is_drawn() -> None:
    reaction = reactions.Reaction(("CCO", "[Na+].[OH-]", "O"), "CC")
    assert str(reaction) == "CCO.[Na+]~[OH-].O>>CC"


def test_the_same_reactions_in_every_run(molecules: list[Any]) -> None:
    amide = next(kind for kind in ALL if kind.name == "N-alkylation")
    assert made(amide, molecules) == made(amide, molecules)
    orders = {reaction.precursors.index(max(reaction.precursors)) for reaction in
              made(amide, molecules, per_class=30)}  # fmt: skip
    assert len(orders) > 1, "agents and reactants are shuffled"


def test_no_class_is_in_both_corpora() -> None:
    names = [kind.name for kind in ALL]
    assert len(set(names)) == len(names)
    templates = {kind.template for kind in reaction_classes.USUAL}
    assert not templates & {kind.template for kind in reaction_classes.HELD_OUT}


@pytest.fixture
def collections(chem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of each of RDKit's collections in place of the whole."""
    read = Path.read_text

    def beginning(path: Path, **options: Any) -> str:
        return "\n".join(read(path, **options).splitlines()[:400])

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", beginning)
        some = reactions._molecules()
    assert 300 < len(some) < 800
    monkeypatch.setattr(reactions, "_molecules", lambda: some)


def test_the_parts_share_no_reaction_and_near_and_held_out_no_molecule_with_it(
    collections: None,
) -> None:
    parts = {part: list(reactions.enumerated(part, per_class=3)) for part in reactions.PARTS}
    assert all(len(part) > 30 for part in parts.values())
    products = {name: {text.split(">>")[1] for text in part} for name, part in parts.items()}
    assert not set(parts[""]) & set(parts["near"])
    assert not products[""] & products["held-out"]
    fingerprint = hashlib.sha256("\n".join(parts[""]).encode()).hexdigest()
    again = "\n".join(reactions.enumerated("", per_class=3))
    assert hashlib.sha256(again.encode()).hexdigest() == fingerprint


def test_it_is_a_corpus_and_kept(
    chem: Any, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reactions, "PER_CLASS", 2)
    texts = ["CCO>>CC=O", "CC=O>>CCO"]
    monkeypatch.setattr(reactions, "enumerated", lambda part: iter(texts))
    assert sorted(corpora.documents("reactions:held-out")) == sorted(texts)
    monkeypatch.setattr(reactions, "enumerated", lambda part: pytest.fail("it is in the cache"))
    assert sorted(corpora.documents("reactions:held-out")) == sorted(texts)
    assert corpora.label("reactions:held-out") == "reactions:held-out"
    (entry,) = cache.entries()
    assert entry.path.name.startswith("reactions-held-out-")


def test_without_rdkit_one_sentence_says_how_to_have_it(
    without_rdkit: None, own_cache: Path
) -> None:
    with pytest.raises(InputError, match=r"pip install 'probenc-support\[chemistry\]'"):
        corpora.documents("reactions")
    assert not (own_cache / "corpora").exists()


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"no corpus reactions:far"):
        corpora.documents("reactions:far")
    assert "reactions:near" in built_in_texts.names()
