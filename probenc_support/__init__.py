"""Token probability encoding in output embeddings: the package behind the book's notebooks.

Data flows one way: corpus -> token blocks -> one pass -> (E, h, z, log a) -> regression ->
sparsity, steering, pruning; and checkpoints -> dynamics. A page of the book, "Use it from Python",
goes this way in ten short examples.

Where the data comes from:

- `corpora`: a built-in text, files or a data set of the hub, cut into token blocks
- `models`: a language model by name, folder or file, checked; its checkpoints; training small ones
- `head`: the output embedding E, its bias and the tokens; logits and log-probabilities from h
- `inference`: the one expensive pass of a model over a text, kept in the cache

What the paper's sections do with it:

- `regression`: the log-linear fit y = A . E_w + c, its intervals, R^2 on held-out tokens (2.1)
- `theory`: what the fit should be, from the hidden states alone
- `sparsity`: how few dimensions and components carry the fit (2.2)
- `steering`: edits of a token's row that multiply its probability (3)
- `pruning`: which dimensions of the output embedding can go (4)
- `dynamics`: when in training the encoding appears (5)
- `generation`: sampled text, and MAUVE between two sets of it

What it leaves open:

- `experiments`: networks trained here that differ in one thing, and what that changes
- `undertrained`: tokens that training hardly saw, told by the output embedding

Models that `python -m probenc_support` writes:

- `commands`: a steered or pruned model as a folder that transformers loads, with what came of it

The book, which the same command runs:

- `notebook`: what runs inside a notebook: parameters, results, figures, verdicts
- `runs`: executing notebooks for models, and the files that this leaves
- `claims`: the claims, their rules, and how the runs' metrics are judged

Small things that the others share: `moments` (mean and covariance of hidden states),
`embedding_rows` (mean, spread and length of the rows of E), `precision` (float64 where a device has
it), `quantisation` (a matrix rounded to few bits), `progress`, `cache`, `shards` (files of a long
computation that several processes make), `names` and `roster` (what a model's name means), `wheels`
(files that the package index carries), and `errors` (`InputError`, whose message is meant to be
read).

Importing the package imports none of these: `from probenc_support import models` does.
"""

__version__ = "0.1.0"

__all__ = [
    "cache",
    "claims",
    "commands",
    "corpora",
    "dynamics",
    "embedding_rows",
    "errors",
    "experiments",
    "generation",
    "head",
    "inference",
    "models",
    "moments",
    "names",
    "notebook",
    "precision",
    "progress",
    "pruning",
    "quantisation",
    "regression",
    "roster",
    "runs",
    "shards",
    "sparsity",
    "steering",
    "theory",
    "undertrained",
    "wheels",
]
