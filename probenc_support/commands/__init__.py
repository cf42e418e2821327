"""Commands that run a model without a notebook: `detect`, `steer` and `prune`.

`arguments` builds their command lines, and that of `train`; `output` looks after the place that
they write to. Both load neither torch nor transformers, so that help and refusals come at once.
`detect_command` makes passes ahead of time. `steer_command` and `prune_command` change a model:
`writing` writes a folder that transformers loads (or a GGUF file), `reloaded` reads it back by
plain transformers and measures what came, and `report` tells.
"""
