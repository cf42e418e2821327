"""`prune`: takes dimensions out of a model's output embedding, and writes the model."""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from probenc_support import cache, inference, models, pruning, regression
from probenc_support.commands import output, reloaded, report, writing
from probenc_support.errors import InputError
from probenc_support.head import Head
from probenc_support.inference import Detection
from probenc_support.models import LanguageModel
from probenc_support.pruning import (
    Basis,
    Divergences,
    Parts,
    intervals,
    orders,
    pruned_head,
    whole_head,
)

_POWERS = (0.25, 0.5, 0.75, 1.0)
"""Of the mean probability, by which the rotation weighs tokens; the best one is chosen."""

_SAMPLE = 1024
"""Positions of which divergence scores are made."""

FACTORS = "pruned_head"
"""Folder of the small head beside the model."""

_FORMATS = {"measure": "", "expected": ".4g", "came": ".4g", "low": ".4g", "high": ".4g"}

LEGEND = (
    "expected: by the head in closed form; came: of the written model as transformers reads it, "
    "with its 95 % interval over documents; on documents that nothing was fitted to. KL: from the "
    "intact model's distribution to the pruned one's, nats; same top token: share of positions; "
    "perplexity: over that of the intact model."
)


def run(options: argparse.Namespace, out: Path) -> None:
    """Prunes a model's output embedding and writes it; prints what that costs.

    Args:
        options: of the command line, checked as far as no model is needed.
        out: where to write, free.

    Raises:
        InputError: the model or the text cannot be had, or the share removes all or nothing.
    """
    with writing.source(options.model, out) as gguf:
        lm = models.load(
            options.model, revision=options.revision, device=options.device,
            dtype=options.dtype, first_token=options.first_token,
        )  # fmt: skip
        models.check_editable(lm)
        removed = _removed(options.share, lm.d)
        length = min(options.sequence_length, lm.context_length)
        apart = pruning.parts_of_text(
            lm, options.corpus,
            n_fitted=options.n_positions,
            # All that judge are compared with the written model, so a pass must keep all of them.
            n_judging=min(options.n_positions // 4, inference.SAMPLE // length * length),
            sequence_length=length,
        )  # fmt: skip
        basis = _basis(lm, options.method, apart, removed)
        E, b = whole_head.whole_head(lm.head, basis, removed)
        judging = inference.detect(lm, apart.judging)
        expected = _against_intact(lm, judging, _by_head(E.to(lm.E), b))
        table = _table(expected, None, judging)
        facts = _facts(options, lm, apart, removed, b is not None and lm.b is not None)
        with writing.with_head(lm, E, b), output.ending_in_order():
            if not options.dry_run:
                with cache.atomic_path(out) as temporary:
                    writing.write_model(
                        lm, temporary, origin=options.model, gguf=gguf, gguf_type=options.gguf_type
                    )
                    if options.factors:
                        small = pruned_head.from_basis(lm, basis, removed)
                        place = temporary if gguf is None else out.with_suffix("")
                        pruned_head.save(small, place / FACTORS / "head.safetensors")
                    with writing.read_back(temporary, lm, options.dtype) as loaded:
                        came = _came(lm, loaded, judging, apart)
                    table = _table(expected, came, judging)
                    writing.write_told(_told(options, lm, table, facts), temporary, out)
    written = None if options.dry_run else out
    report.show(table, _FORMATS, LEGEND, _words(facts), written=written)


def _removed(share: float, d: int) -> int:
    """How many of d dimensions a share removes, at least one.

    Raises:
        InputError: it removes all of them, or rounds to none.
    """
    (removed,) = pruning.levels([share], d)
    if removed == 0:
        raise InputError(
            f"A share of {share:g} of {d} dimensions is less than one of them; give {1 / d:.3g} or "
            "more."
        )
    return removed


def _basis(lm: LanguageModel, method: str, apart: Parts, removed: int) -> Basis:
    """The basis of a method, without a shift where the head has no bias to hold it."""
    detection = inference.detect(lm, apart.fitted)
    moments = detection.moments
    if lm.own_bias is None:
        moments = whole_head.about_origin(moments)
    if method == "paper":
        slopes = torch.as_tensor(regression.fit_tokens(lm, detection).slopes)
        return pruning.zero_basis(orders.ascending(orders.slope_scores(slopes)))
    if method == "fisher_compensated":
        sample = detection.h[pruning.thinned(detection.n_positions, _SAMPLE)]
        order = orders.ascending(orders.fisher_scores(lm.head, sample))
        return pruning.compensated_basis(order, moments)
    choosing = inference.detect(lm, apart.choosing)
    held_out = choosing.h[pruning.thinned(choosing.n_positions, 512)]
    reference = pruning.Reference(lm.head, held_out)
    choice = pruning.choose_power(
        reference, detection.log_a_rows, moments, removed=removed, powers=_POWERS
    )
    return choice.basis


def _by_head(E: Tensor, b: Tensor | None) -> Head:
    return Head(E, None if b is None else b.to(E))


def _against_intact(lm: LanguageModel, judging: Detection, head: Head) -> Divergences:
    """Divergences of another head at the positions that judge."""
    return pruning.evaluate(lm.head, head.logits, judging.h, targets=judging.targets)


def _came(
    lm: LanguageModel, loaded: LanguageModel, judging: Detection, apart: Parts
) -> Divergences:
    """Divergences of the written model, by its own forward pass, from the intact head."""
    logits: Iterator[Tensor] = reloaded.logits_of(loaded, apart.judging)
    n = len(judging.h) // len(apart.judging.ids) * reloaded.blocks_at_once(loaded, apart.judging)
    return pruning.evaluate(
        lm.head, lambda h: next(logits).to(h), judging.h, targets=judging.targets, chunk=n
    )


def _table(expected: Divergences, came: Divergences | None, judging: Detection) -> pd.DataFrame:
    """A row a measure: in closed form, and of the written model with an interval over documents."""
    shown = expected if came is None else came
    measures = {
        "KL (nats)": ("kl", False),
        "same top token": ("same_top", False),
        "perplexity ratio": ("nll_increase", True),
    }
    rows = []
    for name, (field, logarithm) in measures.items():
        values = [getattr(d, field)[0].double() for d in (expected, shown)]
        interval = intervals.mean_interval(values[1], judging.group)
        numbers = [float(values[0].nanmean()), interval.estimate, interval.low, interval.high]
        numbers = [math.exp(number) for number in numbers] if logarithm else numbers
        row = dict(zip(("expected", "came", "low", "high"), numbers, strict=True))
        rows.append({"measure": name} | row)
    table = pd.DataFrame(rows)
    return table.drop(columns="came") if came is None else table


def _facts(
    options: argparse.Namespace, lm: LanguageModel, apart: Parts, removed: int, shifted: bool
) -> dict[str, Any]:
    """What is written down besides the table."""
    return {
        "command": "prune",
        **report.origin(lm, options.model),
        "method": options.method,
        "share": options.share,
        "dimensions": lm.d,
        "dimensions_left": lm.d - removed,
        "head_bias": shifted,
        "corpus": apart.fitted.corpus,
        "fitted_positions": apart.fitted.n_positions,
        "fitted_sha256": apart.fitted.hash,
        "other_positions": apart.judging.n_positions,
        "other_sha256": apart.judging.hash,
        "versions": report.versions(),
    }


def _words(facts: dict[str, Any]) -> str:
    """What was done, in sentences."""
    constant = (
        "What the removed dimensions carry on average is kept in the head's bias."
        if facts["head_bias"]
        else "The head has no bias to hold what the removed dimensions carry on average, so the "
        "map was fitted through the origin and needs none."
    )
    return (
        f"The logits come from {facts['dimensions_left']} of {facts['dimensions']} dimensions, by "
        f"the method {facts['method']}, fitted on {facts['fitted_positions']:,} positions of "
        f"{facts['corpus']}. " + (constant if facts["method"] != "paper" else "")
    ).strip()


def _told(
    options: argparse.Namespace, lm: LanguageModel, table: pd.DataFrame, facts: dict[str, Any]
) -> writing.Told:
    shape = (
        "The output embedding has the shape that it had, since transformers' architecture has no "
        "smaller one: its rows lie in a space of so many dimensions, and neither memory nor time "
        "is saved by loading this folder. "
        + (
            f"The small head, in `{FACTORS}`, is read by `probenc_support.pruning.pruned_head`, "
            "not by transformers."
            if options.factors
            else "What saves them is a head of two factors, which transformers cannot load."
        )
    )
    return writing.Told(
        report.card(
            lm, options.model, f"{lm.name}, its output embedding pruned", _words(facts), shape,
            report.what_else(lm), report.as_markdown(table, _FORMATS), f"({LEGEND})",
        ),
        facts | {"costs": table.to_dict("records")},
        table,
    )  # fmt: skip
