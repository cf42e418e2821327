"""`steer`: gives tokens new mean probabilities, and writes the model that has them."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from probenc_support import cache, inference, models, regression, steering
from probenc_support.commands import output, reloaded, report, writing
from probenc_support.corpora import TokenBlocks
from probenc_support.errors import InputError
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.steering import Steered, candidates, texts

_CALIBRATION_POSITIONS = 1024
"""Of each corpus that the robust direction is fitted to besides the detecting one."""

_FORMATS = {
    "token": "", "wanted": "g", "before": ".3g", "expected": ".4g", "came": ".4g",
    "expected elsewhere": ".4g", "came elsewhere": ".4g", "length": ".2g",
}  # fmt: skip
"""Columns of the table, and how they are written."""

LEGEND = (
    "wanted: factor on the token's mean probability; before: that probability on the fitted text; "
    "expected and came: the factor in closed form, and of the written model as transformers reads "
    "it; elsewhere: on other documents of the corpus; length: of the edit, over the mean length of "
    "a centred row of the output embedding."
)


@dataclass(frozen=True, eq=False)
class _Text:
    """A text, and the pass of the intact model over it."""

    blocks: TokenBlocks
    detection: Detection


def run(options: argparse.Namespace, wanted: Mapping[str | int, float], out: Path) -> None:
    """Steers a model and writes it; prints a table of what was wanted and what came.

    Args:
        options: of the command line, checked as far as no model is needed.
        wanted: factor by token.
        out: where to write, free.

    Raises:
        InputError: the model, the text or the edit cannot be had.
    """
    with writing.source(options.model, out) as gguf:
        lm = models.load(
            options.model, revision=options.revision, device=options.device,
            dtype=options.dtype, first_token=options.first_token,
        )  # fmt: skip
        models.check_editable(lm)
        for token in wanted:
            if isinstance(token, str):
                lm.token_id(token)
        fitted, elsewhere, calibration = _texts(lm, options)
        vector = _direction(lm, options.direction, fitted, calibration)
        steered = steering.steer(lm, wanted, detection=fitted.detection, direction=vector)
        with steered as edited, output.ending_in_order():
            table = _expected(edited, vector, lm, fitted, elsewhere)
            facts = _facts(options, lm, fitted, elsewhere, edited, vector)
            if not options.dry_run:
                with cache.atomic_path(out) as temporary:
                    writing.write_model(
                        edited.lm, temporary,
                        origin=options.model, gguf=gguf, gguf_type=options.gguf_type,
                    )  # fmt: skip
                    with writing.read_back(temporary, lm, options.dtype) as loaded:
                        table, facts = _came(loaded, table, facts, edited, fitted, elsewhere)
                    told = _told(options, lm, table, facts, gguf is not None)
                    writing.write_told(told, temporary, out)
    written = None if options.dry_run else out
    report.show(table, _FORMATS, LEGEND, _words(facts), written=written)


def _texts(
    lm: LanguageModel, options: argparse.Namespace
) -> tuple[_Text, _Text, dict[str, Detection]]:
    """What is fitted to, other documents of it, and what a robust direction needs besides."""
    calibration = options.calibration if options.direction == "robust" else []
    taken = texts.take(
        options.corpus, lm.tokenizer, {}, calibration,
        n_positions=options.n_positions, calibration_positions=_CALIBRATION_POSITIONS,
        sequence_length=min(options.sequence_length, lm.context_length),
        context_length=lm.context_length,
    )  # fmt: skip
    fitted, elsewhere = (
        _Text(blocks, inference.detect(lm, blocks))
        for blocks in (taken.detecting, taken.judging["id"])
    )
    further = {name: inference.detect(lm, text) for name, text in taken.calibration.items()}
    return fitted, elsewhere, further


def _direction(
    lm: LanguageModel, name: str, fitted: _Text, calibration: Mapping[str, Detection]
) -> Tensor:
    """[d] the direction of that name.

    Raises:
        InputError: the model has no exact one.
    """
    detection = fitted.detection
    if name == "paper":
        fit = regression.fit_tokens(lm, detection)
        return steering.paper_direction(torch.as_tensor(fit.slopes), min(10, lm.d))
    if name == "robust":
        sample = steering.spread_over_ranks(detection.log_a_rows, lm.tokens, 500)
        named = [(fitted.blocks.corpus, detection), *calibration.items()]
        home, *others = steering.calibrations(lm, named, sample)
        others += steering.calibration_of_own_text(lm, sample)
        return steering.robust(home, others).vector
    if name == "exact":
        exact = steering.hidden_bias(lm, fitted.blocks.ids[:1, :64])
        if exact.vector is None:
            raise InputError(
                f"{lm.name} has no direction that moves a logit alike on any text: {exact.words} "
                "Use --direction min_variance or robust."
            )
        return exact.vector
    return steering.default_direction(detection)


def _expected(
    edited: Steered, vector: Tensor, lm: LanguageModel, fitted: _Text, elsewhere: _Text
) -> pd.DataFrame:
    """The table in closed form: a row a token."""
    length = candidates.row_length(lm.head)
    tokens = edited.tokens
    return pd.DataFrame(
        {
            "token": [repr(lm.token_text(int(token))) for token in tokens],
            "id": tokens.tolist(),
            "wanted": edited.scales.tolist(),
            "before": edited.before.tolist(),
            "expected": (edited.expected / edited.before).tolist(),
            "expected elsewhere": _factors_on(lm, elsewhere, edited, vector).tolist(),
            "length": (edited.steps.abs() * vector.norm() / length).tolist(),
        }
    )


def _moved(
    lm: LanguageModel, text: _Text, edited: Steered, vector: Tensor
) -> tuple[Tensor, Tensor]:
    """[N, K] old log-probabilities of the tokens in a text, and how far their logits move."""
    log_p = lm.head.log_p(text.detection.h, edited.tokens, text.detection.z)
    return log_p, torch.outer(text.detection.h.double() @ vector, edited.steps)


def _factors_on(lm: LanguageModel, text: _Text, edited: Steered, vector: Tensor) -> Tensor:
    """[K] factors on the mean probabilities in a text."""
    log_p, u = _moved(lm, text, edited, vector)
    return (steering.log_mean(steering.joint_log_p(log_p, u)) - steering.log_mean(log_p)).exp()


def _facts(
    options: argparse.Namespace,
    lm: LanguageModel,
    fitted: _Text,
    elsewhere: _Text,
    edited: Steered,
    vector: Tensor,
) -> dict[str, Any]:
    """What is written down besides the table."""
    kl = steering.joint_kl(*_moved(lm, elsewhere, edited, vector)).mean()
    return {
        "command": "steer",
        **report.origin(lm, options.model),
        "direction": options.direction,
        "corpus": fitted.blocks.corpus,
        "fitted_positions": fitted.detection.n_positions,
        "fitted_sha256": fitted.blocks.hash,
        "other_positions": elsewhere.detection.n_positions,
        "other_sha256": elsewhere.blocks.hash,
        "kl_elsewhere": float(kl),
        "perplexity_elsewhere_before": elsewhere.detection.perplexity,
        "versions": report.versions(),
    }


def _came(
    loaded: LanguageModel,
    table: pd.DataFrame,
    facts: dict[str, Any],
    edited: Steered,
    fitted: _Text,
    elsewhere: _Text,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and facts with what the written model gives by its own forward pass."""
    tokens, perplexity = edited.tokens, math.nan
    for text, column in ((fitted, "came"), (elsewhere, "came elsewhere")):
        before = text.detection.log_a_rows[tokens].exp()
        after, perplexity = reloaded.mean_probabilities(
            loaded, text.blocks, tokens, models.targets(loaded, text.blocks.ids).flatten()
        )
        table = table.assign(**{column: (after / before).tolist()})
    return table, facts | {"perplexity_elsewhere": perplexity}


def _words(facts: Mapping[str, Any]) -> str:
    """What else changed, in a sentence."""
    after = facts.get("perplexity_elsewhere")
    before = facts["perplexity_elsewhere_before"]
    return (
        f"Fitted on {facts['fitted_positions']:,} positions of {facts['corpus']} along "
        f"{facts['direction']}. On {facts['other_positions']:,} positions of other documents the "
        f"whole distribution moves by {facts['kl_elsewhere']:.2g} nats (KL)"
        + (f"; perplexity {before:.4g} before, {after:.4g} after." if after else ".")
    )


def _told(
    options: argparse.Namespace,
    lm: LanguageModel,
    table: pd.DataFrame,
    facts: Mapping[str, Any],
    gguf: bool,
) -> writing.Told:
    where = "`output.weight`, an output embedding of its own," if gguf else "the output embedding"
    what = (
        f"This is {lm.name} with {len(table)} rows of {where} moved, so that these tokens are "
        "on average so many times as likely as they were:"
    )
    return writing.Told(
        report.card(
            lm, options.model, f"{lm.name}, steered", what,
            report.as_markdown(table, _FORMATS), f"({LEGEND})", _words(facts), report.what_else(lm),
        ),
        dict(facts) | {"tokens": table.to_dict("records")},
        table,
    )  # fmt: skip
