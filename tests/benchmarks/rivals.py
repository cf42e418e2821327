"""Another program's pass, as a process in the environment of `make benchmark-rivals`.

    .venv-rivals/bin/python tests/benchmarks/rivals.py TransformerLens FOLDER

FOLDER holds a model as transformers saves it, and `blocks.json`, the token ids [B, T]. The process
loads the model, runs one block, and says that it is ready by one line of JSON: `release`, and
`n_positions` that the model runs over. Then it does its work once for each line of its standard
input, and answers each by a line of JSON. The lines are:

    seconds      of the work alone
    memory       `peak_memory_above_model_mb`, above what the process holds once it is ready
    mean_log_p   of the next token, over all positions that have one, in nats

It imports nothing of the package that it is a rival of.
"""

import importlib.metadata
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

BATCH = 4
"""Blocks at a time, as the bare forward of the benchmark has it."""

Blocks = list[list[int]]
Work = Callable[[Blocks], Any]
"""From token ids [B, T] to what the rival leaves."""


def transformer_lens(model: Any, tokenizer: Any, folder: str) -> tuple[Work, Work]:
    """`run_with_cache` with a filter that keeps the states that the head reads, and no others.

    It leaves the states [B, T, d], and makes all logits [B, T, V] on the way, which are dropped a
    batch at a time, since those of a long text fill gigabytes. It has no averages over positions
    and no log-probabilities: these are the user's to write. Attention is computed step by step
    (`eager`), so that there is something to hook.
    """
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        folder, hf_model=model, tokenizer=tokenizer, device="cpu", dtype=torch.float32
    )
    hook = "ln_final.hook_out"

    def run(blocks: Blocks) -> tuple[Any, Any]:
        with torch.inference_mode():
            return bridge.run_with_cache(torch.tensor(blocks), names_filter=[hook])

    def work(blocks: Blocks) -> Any:
        return torch.cat([run(part)[1][hook] for part in _parts(blocks)])

    def mean_log_p(blocks: Blocks) -> float:
        found = []
        for part in _parts(blocks):
            logits, cache = run(part)
            of_states = cache[hook] @ model.get_output_embeddings().weight.detach().T
            torch.testing.assert_close(logits, of_states, rtol=1e-4, atol=1e-3)
            log_p = logits[:, :-1].double().log_softmax(-1)
            found.append(log_p.gather(-1, torch.tensor(part)[:, 1:, None]).flatten())
        return float(torch.cat(found).mean())

    return work, mean_log_p


def lm_eval(model: Any, tokenizer: Any, folder: str) -> tuple[Work, Work]:
    """The scoring of tokens in which `loglikelihood` and `loglikelihood_rolling` both end.

    Each block is a request: its first token is the context, the others are the continuation. Both
    functions would make tokens of text first, and the rolling one would put a token before each
    text that the other ways do not read. It leaves one number a block, the log-likelihood, and
    neither states nor averages over the vocabulary. The last token of a block is only predicted,
    so that the model runs over one position less a block.
    """
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, max_length=2048)

    def work(blocks: Blocks) -> Any:
        requests = [(("", ""), ids[:1], ids[1:]) for ids in blocks]
        return harness._loglikelihood_tokens(requests, disable_tqdm=True)

    def mean_log_p(blocks: Blocks) -> float:
        return sum(found[0] for found in work(blocks)) / sum(len(ids) - 1 for ids in blocks)

    return work, mean_log_p


RIVALS: dict[str, tuple[str, Callable[..., tuple[Work, Work]]]] = {
    "TransformerLens": ("transformer-lens", transformer_lens),
    "lm-evaluation-harness": ("lm-eval", lm_eval),
}


def _parts(blocks: Blocks) -> list[Blocks]:
    return [blocks[start : start + BATCH] for start in range(0, len(blocks), BATCH)]


def _memory_kb(key: str) -> int:
    """A figure of this process as Linux keeps it: VmRSS, resident now, or VmHWM, at the most."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def main(name: str, folder: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the rival prints is no answer
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    blocks: Blocks = json.loads((Path(folder) / "blocks.json").read_text())
    package, make = RIVALS[name]
    work, mean_log_p = make(model, tokenizer, folder)
    work(blocks[:1])
    short = name == "lm-evaluation-harness"
    ready = {
        "release": importlib.metadata.version(package),
        "n_positions": sum(len(ids) - short for ids in blocks),
    }
    print(json.dumps(ready), file=answers)
    for asked in sys.stdin:
        answer: dict[str, float] = {}
        if asked.strip() == "mean_log_p":
            answer["mean_log_p"] = mean_log_p(blocks)
        elif asked.strip() == "memory":
            before = _memory_kb("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            work(blocks)
            answer["peak_memory_above_model_mb"] = (_memory_kb("VmHWM") - before) / 1e3
        else:
            start = time.perf_counter()
            work(blocks)
            answer["seconds"] = time.perf_counter() - start
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
