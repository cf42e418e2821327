"""Token probability encoding in output embeddings: the package behind the book's notebooks.

Data flows one way: corpus -> token blocks -> one pass -> (E, h, z, log a) -> regression ->
sparsity, steering, pruning; and checkpoints -> dynamics.
"""

import warnings

# A page shows figures, not progress bars: tqdm's remark that it finds no widgets would stand in it.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"
