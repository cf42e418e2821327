"""Chemical reactions as text: enumerated from templates, not measured in a laboratory.

Each document is one reaction, `A.B.C>>D` in canonical SMILES without atom maps: precursors, agents
among them, in an order drawn at random, then the product. The parts of one compound, such as the
ions of a salt, are joined by `~` in place of a dot. Reactants come from collections that the
package RDKit carries: molecules of the National Cancer Institute's open database, and the screening
library on which Saubern, Guha & Baell (2011) compared filters. A template applies where each
reactant has the group that reacts exactly once, and where only one product can come of it. Whether
a flask would give that product is not known.
"""

import hashlib
import importlib.metadata
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probenc_support.corpora.reaction_classes import HELD_OUT, USUAL, ReactionClass
from probenc_support.errors import InputError

PARTS = ("", "near", "held-out")
"""`reactions`; the same classes on other molecules; other classes on those other molecules."""


_VERSION = 2
"""Increase it when the enumeration changes, so that cached text is made again."""


PER_CLASS = 600
"""Most reactions of a class; the classes with rare reactants have fewer."""


_ELEMENTS = {1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53}
"""Atomic numbers in the molecules that react."""


_ATOMS = (4, 24)
"""Fewest and most heavy atoms of a molecule that reacts."""


_TRIES = 4
"""Combinations of reactants that are tried for each reaction wanted, at most."""


def cached_name(part: str) -> str:
    """Name of a part's text in the cache, with the release of RDKit that makes it.

    Raises:
        InputError: there is no such part, or RDKit is not installed.
    """
    if part not in PARTS:
        raise InputError(
            f"There is no corpus reactions:{part}; there are reactions, reactions:near and "
            "reactions:held-out."
        )
    try:
        release = importlib.metadata.version("rdkit")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "The corpus reactions is made by the package rdkit, which is not installed: "
            "pip install 'probenc-support[chemistry]'"
        ) from None
    return f"reactions-{part or 'usual'}-{release}-v{_VERSION}"


def enumerated(part: str, *, per_class: int = PER_CLASS) -> Iterator[str]:
    """The reactions of a part, class by class; the same ones for one release of RDKit."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        molecules = [m for m in _molecules() if _is_first(m) == (part == "")]
        for kind in HELD_OUT if part == "held-out" else USUAL:
            yield from map(str, reactions_of(kind, molecules, per_class=per_class))


def _molecules() -> list[Any]:
    """Molecules that may react, out of the files that RDKit carries."""
    from rdkit import RDConfig

    folder = Path(RDConfig.RDDataDir)
    first = (folder / "NCI" / "first_5K.smi").read_text(encoding="utf-8")
    second = (folder / "Pains" / "test_data" / "wehi_mols.csv").read_text(encoding="utf-8")
    written = [line.split()[0] for line in first.splitlines() if line.strip()]
    written += [line.split('"')[1] for line in second.splitlines() if line.strip()]
    return list(read(written))


def _is_first(molecule: Any) -> bool:
    """Whether a molecule belongs to the half of which `reactions` is made; its name decides."""
    return hashlib.sha256(_smiles(molecule).encode()).digest()[0] % 2 == 0


def read(written: Sequence[str]) -> Iterator[Any]:
    """RDKit's molecules of the SMILES that may react: neutral, of one part and of usual elements,
    without isotopes or radicals, each once."""
    from rdkit import Chem

    seen = set()
    for smiles in written:
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None or not _ATOMS[0] <= molecule.GetNumHeavyAtoms() <= _ATOMS[1]:
            continue
        atoms = list(molecule.GetAtoms())
        odd = any(
            a.GetAtomicNum() not in _ELEMENTS or a.GetIsotope() or a.GetNumRadicalElectrons()
            for a in atoms
        )
        charged = sum(a.GetFormalCharge() for a in atoms) != 0
        canonical = _smiles(molecule)
        if not (odd or charged or "." in canonical or canonical in seen):
            seen.add(canonical)
            yield molecule


@dataclass(frozen=True)
class Reaction:
    """One reaction: compounds as SMILES, of which some have several parts."""

    precursors: tuple[str, ...]
    """In the order in which they are written."""
    product: str

    def __str__(self) -> str:
        """As the model of rxnmapper reads it: parts of one compound are held together by `~`."""
        compounds = (smiles.replace(".", "~") for smiles in self.precursors)
        return f"{'.'.join(compounds)}>>{self.product}"


def reactions_of(
    kind: ReactionClass, molecules: Sequence[Any], *, per_class: int
) -> Iterator[Reaction]:
    """Up to `per_class` different reactions of one class, drawn at random among the molecules."""
    from rdkit.Chem import MolFromSmiles, rdChemReactions

    if kind.on_products_of:
        earlier = next(one for one in (*USUAL, *HELD_OUT) if one.name == kind.on_products_of)
        made = reactions_of(earlier, molecules, per_class=per_class)
        molecules = [MolFromSmiles(reaction.product) for reaction in made]
    template: Any = rdChemReactions.ReactionFromSmarts(kind.template)
    template.Initialize()
    draws = random.Random(kind.name)
    seen: set[tuple[str, ...]] = set()
    for compounds in _combinations(_pools(kind, template, molecules), _TRIES * per_class, draws):
        if len(seen) == per_class:
            return
        names = tuple(compound.written for compound in compounds)
        product = _product(template, [compound.molecule for compound in compounds])
        precursors = [*names, *draws.choice(kind.agents)]
        draws.shuffle(precursors)
        if product and product not in names and names not in seen:
            seen.add(names)
            yield Reaction(tuple(precursors), product)


@dataclass(frozen=True)
class _Compound:
    written: str
    """SMILES."""
    molecule: Any
    """RDKit's."""


def _pools(kind: ReactionClass, template: Any, molecules: Sequence[Any]) -> list[list[_Compound]]:
    """For each reactant the compounds that can be it: the group that reacts occurs once."""
    from rdkit.Chem import MolFromSmiles

    pools = []
    for i in range(template.GetNumReactantTemplates()):
        pattern = template.GetReactantTemplate(i)
        pattern.UpdatePropertyCache(strict=False)
        if kind.partners and i == template.GetNumReactantTemplates() - 1:
            # As it stands: releases of RDKit differ in how they write bonds to metals.
            pools.append([_Compound(smiles, MolFromSmiles(smiles)) for smiles in kind.partners])
        else:
            able = (m for m in molecules if len(m.GetSubstructMatches(pattern)) == 1)
            pools.append([_Compound(_smiles(m), m) for m in able])
    return pools


def _combinations(
    pools: Sequence[Sequence[_Compound]], most: int, draws: random.Random
) -> Iterator[tuple[_Compound, ...]]:
    """One compound out of each pool, in random order: all combinations, or `most` draws."""
    count = 1
    for pool in pools:
        count *= len(pool)
    if count > most:
        yield from (tuple(draws.choice(pool) for pool in pools) for _ in range(most))
        return
    every = list(itertools.product(*pools))
    draws.shuffle(every)
    yield from every


def _product(template: Any, reactants: Sequence[Any]) -> str:
    """Canonical SMILES of the product; empty where there is none, or more than one."""
    from rdkit.Chem import MolFromSmiles, SanitizeMol

    products = set()
    for (product,) in template.RunReactants(tuple(reactants)):
        if SanitizeMol(product, catchErrors=True):
            return ""
        products.add(_smiles(product))
    if len(products) != 1:
        return ""
    whole = MolFromSmiles(products.pop())
    return "" if whole is None else _smiles(whole)


def _smiles(molecule: Any) -> str:
    """Canonical SMILES."""
    from rdkit.Chem import MolToSmiles

    return str(MolToSmiles(molecule))
