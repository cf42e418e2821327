"""Named reactions of organic chemistry as templates: what reacts, what comes of it, what is added.

They are textbook transformations, among those that medicinal chemists use most (Roughley & Jordan
2011, *The Medicinal Chemist's Toolbox*; Hartenfeller et al. 2011, *A Collection of Robust Organic
Synthesis Reactions*), written for this purpose as reaction SMARTS. Solvents, bases and catalysts
are usual ones, and stand among the precursors as they do in patents.
"""

from dataclasses import dataclass

_AMINE = "[NX3;H2,H1;!$(N-[!#6]);!$(N-C=[O,S,N]);!$(N-C#N):3]"
"""Amines and anilines: no amides, no amidines, no hydrazines."""
_ALIPHATIC_AMINE = "[NX3;H2,H1;!$(N-[!#6]);!$(N-[CX3]);!$(N-c);!$(N-C#N):3]"
_ALCOHOL = "[OX2H:3][CX4;!$(C[O,N,S]~[O,N,S]);!$(C([OX2H])[O,N,S]):4]"
_ALKYL_HALIDE = "[CX4;H2,H3;!$(C([Cl,Br,I])[O,N,S,Cl,Br,I]):1][Cl,Br,I]"
_ARYL_HALIDE = "[c:1][Br,I]"
_DRAWS = "[$(c[N+](=O)[O-]),$(cC#N)]"
_ACTIVATED = f"[c;$(c1{_DRAWS}aaaa1),$(c1aa{_DRAWS}aa1),$(c:n):1][F,Cl]"
"""Aryl fluorides and chlorides that a nitro group, a nitrile or a ring nitrogen activates."""

_DMF, _DCM, _THF, _WATER = "CN(C)C=O", "ClCCl", "C1CCOC1", "O"
_METHANOL, _ETHANOL, _TOLUENE, _DIOXANE = "CO", "CCO", "Cc1ccccc1", "C1COCCO1"
_ACETONITRILE, _ACETONE, _PYRIDINE = "CC#N", "CC(C)=O", "c1ccncc1"
_TRIETHYLAMINE, _DIPEA = "CCN(CC)CC", "CCN(C(C)C)C(C)C"
_POTASSIUM_CARBONATE = "O=C([O-])[O-].[K+].[K+]"
_SODIUM_CARBONATE = "O=C([O-])[O-].[Na+].[Na+]"
_CAESIUM_CARBONATE = "O=C([O-])[O-].[Cs+].[Cs+]"
_TETRAKIS = "c1ccc([P](c2ccccc2)(c2ccccc2)[Pd]([P](c2ccccc2)(c2ccccc2)c2ccccc2)([P](c2ccccc2)(c2ccccc2)c2ccccc2)[P](c2ccccc2)(c2ccccc2)c2ccccc2)cc1"  # noqa: E501
_PALLADIUM_ACETATE = "CC(=O)[O-].CC(=O)[O-].[Pd+2]"
_TRIPHENYLPHOSPHINE = "c1ccc(P(c2ccccc2)c2ccccc2)cc1"


@dataclass(frozen=True)
class ReactionClass:
    """One named reaction."""

    name: str
    template: str
    """Reaction SMARTS; each reactant's pattern stands alone between dots."""
    agents: tuple[tuple[str, ...], ...]
    """Sets of agents, as SMILES of whole compounds, of which a reaction gets one."""
    partners: tuple[str, ...] = ()
    """The last reactant, where it is one of these reagents and not out of a collection."""
    on_products_of: str = ""
    """Another class, the products of which react, where collections hold hardly any of them."""


USUAL = (
    ReactionClass(
        "amide coupling",
        f"[CX3;$(C[#6]):1](=[O:2])[OX2H1].{_AMINE}>>[C:1](=[O:2])[N:3]",
        (
            ("CN(C)C(On1nnc2cccnc21)=[N+](C)C.F[P-](F)(F)(F)(F)F", _DIPEA, _DMF),
            ("CCN=C=NCCCN(C)C.Cl", "On1nnc2ccccc21", _DCM),
            ("CCN=C=NCCCN(C)C.Cl", "CN(C)c1ccncc1", _DCM),
        ),
    ),
    ReactionClass(
        "acylation",
        f"{_AMINE}.[CX3:1](=[O:2])Cl>>[C:1](=[O:2])[N:3]",
        ((_TRIETHYLAMINE, _DCM), (_PYRIDINE,), (_TRIETHYLAMINE, _THF)),
        ("CC(=O)Cl", "O=C(Cl)c1ccccc1", "CC(C)(C)C(=O)Cl", "O=C(Cl)CCl", "O=C(Cl)C1CC1",
         "COC(=O)Cl", "O=C(Cl)c1ccc(Cl)cc1", "O=C(Cl)OCc1ccccc1"),
    ),
    ReactionClass(
        "esterification",
        "[CX3;$(C[#6]):1](=[O:2])[OX2H1].[OX2H:3][CX4:4]>>[C:1](=[O:2])[O:3][C:4]",
        (("O=S(=O)(O)O",), ("O=S(Cl)Cl",), ("Cc1ccc(S(=O)(=O)O)cc1", _TOLUENE)),
        ("CO", "CCO", "CC(C)O", "OCc1ccccc1"),
    ),
    ReactionClass(
        "ester hydrolysis",
        "[CX3;$(C[#6]):1](=[O:2])[OX2][CH3,$([CH2][CH3])]>>[C:1](=[O:2])O",
        (("[Li+].[OH-]", _THF, _WATER), ("[Na+].[OH-]", _METHANOL), ("[Na+].[OH-]", _ETHANOL,
         _WATER, "Cl")),
    ),
    ReactionClass(
        "Suzuki coupling",
        f"{_ARYL_HALIDE}.[c:2]B(O)O>>[c:1][c:2]",
        ((_TETRAKIS, _SODIUM_CARBONATE, _DIOXANE, _WATER),
         (_TETRAKIS, _POTASSIUM_CARBONATE, _TOLUENE, _ETHANOL, _WATER),
         (_PALLADIUM_ACETATE, _TRIPHENYLPHOSPHINE, _SODIUM_CARBONATE, _DMF)),
        ("OB(O)c1ccccc1", "OB(O)c1ccc(F)cc1", "COc1ccc(B(O)O)cc1", "OB(O)c1ccncc1",
         "OB(O)c1cccnc1", "CC(C)(C)OC(=O)n1cccc1B(O)O", "OB(O)c1ccsc1", "OB(O)c1ccccc1Cl",
         "N#Cc1ccc(B(O)O)cc1", "CC(=O)c1cccc(B(O)O)c1", "OB(O)c1ccc(C(F)(F)F)cc1"),
    ),
    ReactionClass(
        "Williamson ether synthesis",
        f"[OX2H:3][c:2].{_ALKYL_HALIDE}>>[c:2][O:3][C:1]",
        ((_POTASSIUM_CARBONATE, _DMF), (_POTASSIUM_CARBONATE, _ACETONE), ("[H-].[Na+]", _DMF),
         (_CAESIUM_CARBONATE, _ACETONITRILE)),
    ),
    ReactionClass(
        "N-alkylation",
        f"{_ALIPHATIC_AMINE}.{_ALKYL_HALIDE}>>[N:3][C:1]",
        ((_POTASSIUM_CARBONATE, _ACETONITRILE), (_POTASSIUM_CARBONATE, _DMF),
         (_DIPEA, _ACETONITRILE)),
    ),
    ReactionClass(
        "reductive amination",
        f"[CX3H1;$(C[#6]):1]=O.{_AMINE}>>[CH2:1][N:3]",
        (("CC(=O)O[BH-](OC(C)=O)OC(C)=O.[Na+]", _DCM), ("[BH3-]C#N.[Na+]", _METHANOL, "CC(=O)O"),
         ("CC(=O)O[BH-](OC(C)=O)OC(C)=O.[Na+]", "ClCCCl", "CC(=O)O")),
    ),
    ReactionClass(
        "nitro reduction",
        "[c:1][N+](=O)[O-]>>[c:1]N",
        (("[Fe]", "[Cl-].[NH4+]", _ETHANOL, _WATER), ("[H][H]", "[Pd]", _METHANOL),
         ("[Zn]", "CC(=O)O")),
    ),
    ReactionClass(
        "Boc protection",
        f"{_ALIPHATIC_AMINE}.[C:1](=[O:2])([O:5])OC=O>>[N:3][C:1](=[O:2])[O:5]",
        ((_TRIETHYLAMINE, _DCM), ("[Na+].[OH-]", _DIOXANE, _WATER), (_DIPEA, _THF)),
        ("CC(C)(C)OC(=O)OC(=O)OC(C)(C)C",),
    ),
    ReactionClass(
        "Boc removal",
        "[N:3]C(=O)OC([CH3])([CH3])[CH3]>>[N:3]",
        (("O=C(O)C(F)(F)F", _DCM), ("Cl", _DIOXANE), ("Cl", "CCOC(C)=O")),
        on_products_of="Boc protection",
    ),
    ReactionClass(
        "aromatic substitution",
        f"{_ACTIVATED}.{_AMINE}>>[c:1][N:3]",
        ((_POTASSIUM_CARBONATE, _DMF), (_DIPEA, _ACETONITRILE), ("CS(C)=O", _TRIETHYLAMINE),
         (_ETHANOL, _TRIETHYLAMINE)),
    ),
    ReactionClass(
        "sulfonamide formation",
        f"{_AMINE}.[SX4:1](=[O:2])(=[O:5])Cl>>[N:3][S:1](=[O:2])=[O:5]",
        ((_PYRIDINE,), (_TRIETHYLAMINE, _DCM), (_PYRIDINE, _DCM)),
        ("Cc1ccc(S(=O)(=O)Cl)cc1", "CS(=O)(=O)Cl", "O=S(=O)(Cl)c1ccccc1", "O=S(=O)(Cl)c1cccs1",
         "O=S(=O)(Cl)c1ccc(F)cc1"),
    ),
    ReactionClass(
        "carbonyl reduction",
        "[CX3;$(C([#6])[#6]),$([CH]c):1]=[O:2]>>[C:1][O:2]",
        (("[BH4-].[Na+]", _METHANOL), ("[BH4-].[Na+]", _ETHANOL), ("[BH4-].[Na+]", _THF, _WATER)),
    ),
    ReactionClass(
        "alcohol oxidation",
        "[CX4;H1,H2;!$(C(O)[O,N,S]):1][OX2H:2]>>[C:1]=[O:2]",
        (("CC(=O)OI1(OC(C)=O)(OC(C)=O)OC(=O)c2ccccc21", _DCM), ("O=[Mn]=O", "ClC(Cl)Cl"),
         ("CS(C)=O", "O=C(Cl)C(=O)Cl", _TRIETHYLAMINE, _DCM)),
    ),
)  # fmt: skip
"""The classes of the corpus `reactions`."""


HELD_OUT = (
    ReactionClass(
        "Sonogashira coupling",
        f"{_ARYL_HALIDE}.[CH1:2]#[C:3]>>[c:1][C:2]#[C:3]",
        ((_TETRAKIS, "[Cu]I", _TRIETHYLAMINE), (_TETRAKIS, "[Cu]I", _DIPEA, _DMF)),
        ("C#Cc1ccccc1", "C#C[Si](C)(C)C", "C#CCO", "C#CCCCC", "C#CC(C)(C)O", "C#CCN(C)C"),
    ),
    ReactionClass(
        "Heck coupling",
        f"{_ARYL_HALIDE}.[CH2:2]=[CH1:3][#6:4]>>[c:1]/[CH1:2]=[CH1:3]/[#6:4]",
        ((_PALLADIUM_ACETATE, _TRIPHENYLPHOSPHINE, _TRIETHYLAMINE, _DMF),),
        ("C=CC(=O)OC", "C=CC(=O)OCC", "C=CC#N", "C=Cc1ccccc1", "C=CC(N)=O"),
    ),
    ReactionClass(
        "Buchwald-Hartwig amination",
        f"{_ARYL_HALIDE}.{_ALIPHATIC_AMINE}>>[c:1][N:3]",
        ((_PALLADIUM_ACETATE, "CC(C)(C)[O-].[Na+]", _TOLUENE),
         (_PALLADIUM_ACETATE, _CAESIUM_CARBONATE, _DIOXANE)),
    ),
    ReactionClass(
        "Grignard addition",
        "[CX3;$(C([#6])[#6]),$([CH]c):1]=[O:2].[#6:3][Mg]>>[C:1]([OH:2])[#6:3]",
        ((_THF,), ("CCOCC",), (_THF, "[Cl-].[NH4+]")),
        ("C[Mg]Br", "CC[Mg]Br", "Br[Mg]c1ccccc1", "C=C[Mg]Br", "CC(C)[Mg]Cl", "Cl[Mg]Cc1ccccc1"),
    ),
    ReactionClass(
        "Wittig olefination",
        "[CX3H1;$(C[#6]):1]=O.[C:2]=P(c1ccccc1)(c1ccccc1)c1ccccc1>>[C:1]=[C:2]",
        ((_DCM,), (_TOLUENE,), (_THF,)),
        ("CCOC(=O)C=P(c1ccccc1)(c1ccccc1)c1ccccc1", "COC(=O)C=P(c1ccccc1)(c1ccccc1)c1ccccc1",
         "CC(=O)C=P(c1ccccc1)(c1ccccc1)c1ccccc1"),
    ),
    ReactionClass(
        "urea formation",
        f"{_AMINE}.[NX2:1]=[C:2]=[O:4]>>[N:3][C:2](=[O:4])[NH:1]",
        ((_DCM,), (_THF,), (_TRIETHYLAMINE, _TOLUENE)),
        ("O=C=Nc1ccccc1", "CCN=C=O", "O=C=Nc1ccc(Cl)cc1", "CC(C)N=C=O", "COc1ccc(N=C=O)cc1"),
    ),
    ReactionClass(
        "ester reduction",
        "[CX3;$(C[#6]):1](=[O:2])[OX2][CH3,$([CH2][CH3])]>>[CH2:1][OH:2]",
        (("[Al+3].[H-].[H-].[H-].[H-].[Li+]", _THF), ("CC(C)C[AlH]CC(C)C", _DCM)),
    ),
    ReactionClass(
        "Mitsunobu reaction",
        f"[OX2H:1][c:2].{_ALCOHOL}>>[c:2][O:1][C:4]",
        ((_TRIPHENYLPHOSPHINE, "CCOC(=O)N=NC(=O)OCC", _THF),
         (_TRIPHENYLPHOSPHINE, "CC(C)OC(=O)N=NC(=O)OC(C)C", _DCM)),
    ),
    ReactionClass(
        "chlorination of an alcohol",
        "[CX4;H2;!$(C(O)[O,N,S]):1][OX2H]>>[C:1]Cl",
        (("O=S(Cl)Cl", _DCM), ("O=S(Cl)Cl", "ClC(Cl)Cl"), ("CS(=O)(=O)Cl", _TRIETHYLAMINE, _DCM)),
    ),
    ReactionClass(
        "acid chloride formation",
        "[CX3;$(C[#6]):1](=[O:2])[OX2H1]>>[C:1](=[O:2])Cl",
        (("O=S(Cl)Cl",), ("O=C(Cl)C(=O)Cl", _DMF, _DCM)),
    ),
    ReactionClass(
        "thioether synthesis",
        f"[SX2H:3][#6:2].{_ALKYL_HALIDE}>>[#6:2][S:3][C:1]",
        ((_POTASSIUM_CARBONATE, _DMF), ("[Na+].[OH-]", _ETHANOL, _WATER)),
    ),
    ReactionClass(
        "oxidation of a thioether",
        "[#6:1][SX2:2][#6;!$([#6]=[O,N,S]):3]>>[#6:1][S:2](=O)(=O)[#6:3]",
        (("O=C(OO)c1cccc(Cl)c1", _DCM), ("OO", "CC(=O)O")),
    ),
    ReactionClass(
        "silyl protection",
        f"{_ALCOHOL}.[Si:1]Cl>>[C:4][O:3][Si:1]",
        (("c1c[nH]cn1", _DMF), (_TRIETHYLAMINE, "CN(C)c1ccncc1", _DCM)),
        ("CC(C)(C)[Si](C)(C)Cl", "CC(C)[Si](Cl)(C(C)C)C(C)C", "C[Si](C)(C)Cl"),
    ),
    ReactionClass(
        "Knoevenagel condensation",
        "[CX3H1;$(C[#6]):1]=O.[CH2:2](C#N)[C:3]>>[CH1:1]=[C:2](C#N)[C:3]",
        (("C1CCNCC1", _ETHANOL), (_TRIETHYLAMINE, _ETHANOL)),
        ("N#CCC(N)=O", "CCOC(=O)CC#N"),
    ),
    ReactionClass(
        "ether cleavage",
        "[c:1][OX2:2][CH3]>>[c:1][OH:2]",
        (("BrB(Br)Br", _DCM), ("Br", "CC(=O)O")),
    ),
    ReactionClass(
        "oxime formation",
        "[CX3;$(C([#6])[#6]),$([CH]c):1]=O.[NX3H2:2][OX2:3]>>[C:1]=[N:2][O:3]",
        (("CC(=O)[O-].[Na+]", _ETHANOL), (_PYRIDINE, _ETHANOL)),
        ("NO", "CON", "NOCc1ccccc1"),
    ),
)  # fmt: skip
"""The classes of the corpus `reactions:held-out`, none of which is in `USUAL`."""
