"""Token probability encoding in output embeddings: the package behind the book's notebooks.

Data flows one way: corpus -> token blocks -> one pass -> (E, h, z, log a) -> regression ->
sparsity, steering, pruning; and checkpoints -> dynamics.
"""

__version__ = "0.1.0"
