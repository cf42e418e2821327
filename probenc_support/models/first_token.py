"""Whether the token that a causal model reads before every text suits it."""

from dataclasses import replace

import torch
from torch import Tensor

from probenc_support.models.kinds import Causal
from probenc_support.models.language_model import FirstTokenProbe, LanguageModel, logits

_PROBE_TEXT = (
    "The river rises in the hills to the north of the town and flows for about forty miles before "
    "it reaches the sea. In the nineteenth century it drove a dozen mills, most of which made "
    "paper or ground flour; two of them are still standing, and one is now a museum. Every spring "
    "the water comes up over the lower meadows, so the road to the bridge was built on a bank of "
    "earth and stone. Visitors who walk along the path in the evening often see herons near the "
    "weir, and in a dry summer it is possible to cross to the island on foot. The oldest house in "
    "the village belonged to a family of boat builders, who kept careful records of the weather, "
    "the price of timber and the height of the water for more than a hundred years."
)
"""Plain English of about 150 tokens, written for this purpose."""


@torch.inference_mode()
def probe_first_token(lm: LanguageModel) -> FirstTokenProbe | None:
    """Reads a short English text with the chosen first token, with none, and with the tokenizer's
    own beginning of text; None where there is no choice, or the model is not causal."""
    if lm.kind.name != "causal":
        return None
    own = lm.tokenizer.bos_token_id
    choices = dict.fromkeys((lm.first_token, None, None if own is None else int(own)))
    ids = lm.tokenizer(_PROBE_TEXT, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([ids[: lm.context_length - 1]], dtype=torch.int64)
    if len(choices) < 2 or ids.shape[1] < 2:
        return None
    tried = [replace(lm, kind=Causal(choice)) for choice in choices]
    losses = {each.first_token_text: _loss(each, ids) for each in tried}
    return FirstTokenProbe(lm.first_token_text, losses)


def _loss(lm: LanguageModel, ids: Tensor) -> float:
    """Mean negative log-probability of the tokens [1, T] but the first, in nats."""
    log_p = torch.log_softmax(logits(lm, ids)[0, :-1].float(), dim=1)
    return -float(log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:].to(log_p.device)].mean())
