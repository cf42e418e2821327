"""What a model is trained to predict: the states that its head reads, and the tokens to predict.

An objective is a function of a model, a batch of blocks and a generator. The head itself, by far
the largest part of a step, is left to the training loop, which takes the positions in pieces.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from probenc_support.models.kinds import head_inputs
from probenc_support.models.recipes import CAUSAL, ENCODER_DECODER, MASKED, Recipe

Objective = Callable[[PreTrainedModel, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""Of a model, ids [B, T] and a generator on the CPU: what the head reads, [n, d], at the positions
that are predicted, and the tokens that stand there, [n] int64."""


ROUNDS = 7
"""In how many rounds a block is masked: in each a seventh of it, 14 %, about as much as BERT's 15 %
(Devlin et al. 2019)."""


MASK = "<|mask|>"
"""The token that stands for a masked one. It has a row of its own, and never occurs in a text."""


def causal(
    model: PreTrainedModel, ids: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Every token but the first, from those before it. Draws nothing."""
    states = head_inputs(model, input_ids=ids, use_cache=False)
    return states[:, :-1].flatten(0, 1), ids[:, 1:].flatten()


def masked(
    model: PreTrainedModel,
    ids: Tensor,
    generator: torch.Generator,
    *,
    mask: int,
    special: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Every token, from the others of its block but for those of its round, which are masked, too.

    BERT reads a block once and predicts 15 % of it. Here it is read seven times, so that all of it
    is predicted, as a causal model predicts all of it. BERT leaves a
    tenth of what it predicts as it is and replaces a tenth by random tokens, for the sake of tasks
    whose text has no masks; here every prediction that is looked at is one of a masked token.

    Args:
        mask: id of the mask token.
        special: ids of tokens that are never masked, nor predicted.
    """
    chosen = masked_positions(ids.cpu(), generator, special=special).to(ids.device)
    read = ids.masked_fill(chosen, mask).flatten(0, 1)
    states = head_inputs(model, input_ids=read).unflatten(0, chosen.shape[:2])
    return states[chosen], ids.expand_as(chosen)[chosen]


def masked_positions(
    ids: Tensor, generator: torch.Generator, *, special: tuple[int, ...] = ()
) -> Tensor:
    """[R, B, T] bool, the positions of each block [B, T] that each of `ROUNDS` masks: every one in
    one round, and as many in one as in another, but for special tokens, which none masks."""
    order = torch.rand(ids.shape, generator=generator).argsort(dim=1)
    number = order.argsort(dim=1) % ROUNDS
    free = ~torch.isin(ids, torch.tensor(special, dtype=ids.dtype))
    return (number == torch.arange(ROUNDS)[:, None, None]) & free


def encoder_decoder(
    model: PreTrainedModel, ids: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The second half of each block, in the decoder, from the first half, in the encoder, and from
    the tokens of the second before each. Draws nothing."""
    half = ids.shape[1] // 2
    start = torch.full_like(ids[:, :1], int(model.config.decoder_start_token_id))
    states = head_inputs(
        model,
        input_ids=ids[:, :half],
        decoder_input_ids=torch.cat([start, ids[:, half:-1]], dim=1),
        use_cache=False,
    )
    return states.flatten(0, 1), ids[:, half:].flatten()


def of(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Objective:
    """The objective of a recipe.

    Args:
        tokenizer: the model's, see `tokenizer_of`.
    """
    if recipe.objective == MASKED:
        special = tuple(tokenizer.all_special_ids)
        return partial(masked, mask=int(tokenizer.mask_token_id), special=special)
    return {CAUSAL: causal, ENCODER_DECODER: encoder_decoder}[recipe.objective]


def tokenizer_of(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer of a text as the model of a recipe needs it: with a mask token, if any."""
    if recipe.objective == MASKED:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            mask_token=MASK,
        )
    return tokenizer
