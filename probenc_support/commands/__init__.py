"""Commands that write a changed model: `steer` and `prune` of `python -m probenc_support`.

`arguments` builds their command lines, and that of `train`; `output` looks after the place that
they write to. Both load neither torch nor transformers, so that help and refusals come at once.
`steer_command` and `prune_command` do the work, `writing` writes a folder that transformers loads
(or a GGUF file), `reloaded` reads it back by plain transformers and measures what came, and
`report` tells.
"""
