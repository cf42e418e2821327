"""What storing an edited row in few bits leaves of the edit, predicted and as it comes."""

import math

import pytest
import tiny
import torch
from test_steering import detection_of, some_ids

from probenc_support import models, steering
from probenc_support.moments import Moments
from probenc_support.steering import rounded_rows

TOKENS = torch.arange(1, 320, 3)


@pytest.mark.parametrize("dtype", rounded_rows.PRECISIONS)
def test_the_last_digit_is_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 0.3, 7.0, 1e-3, 100.0]).to(dtype)
    after = torch.nextafter(values, torch.full_like(values, torch.inf))
    found = rounded_rows.last_digit(values, dtype)
    torch.testing.assert_close(found, after.double() - values.double())
    assert torch.equal(rounded_rows.last_digit(-values, dtype), found)


@pytest.mark.parametrize("dtype", rounded_rows.PRECISIONS)
@pytest.mark.parametrize("times", [0.3, 2.0])
def test_the_error_is_predicted_and_grows_with_the_edit(dtype: torch.dtype, times: float) -> None:
    lm = tiny.language_model("untied", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    vector = times * steering.min_variance(Moments.of(detection.h))
    found = rounded_rows.rounded(lm, detection, TOKENS, vector, dtype)
    assert found.measured == pytest.approx(found.predicted, rel=0.15)
    longer = rounded_rows.rounded(lm, detection, TOKENS, 4 * vector, dtype)
    assert longer.predicted > found.predicted
    assert longer.measured > found.measured
    other = {torch.bfloat16: torch.float16, torch.float16: torch.bfloat16}[dtype]
    ratio = found.measured / rounded_rows.rounded(lm, detection, TOKENS, vector, other).measured
    wanted = 8.0 if dtype is torch.bfloat16 else 1 / 8
    assert math.log(ratio / wanted) == pytest.approx(0, abs=0.3), "three binary digits apart"


def test_it_is_what_a_model_with_such_a_row_does() -> None:
    """The oracle edits the model itself, whose other rows stay as they are."""
    lm = tiny.language_model("bias", dtype=torch.float64)
    tiny.need_float64_logits(lm)
    lm.model.lm_head.weight.data.copy_(lm.E.to(torch.bfloat16).double())
    lm = models.wrap(lm.model, tiny.tokenizer(), name="stored in bfloat16")
    ids = some_ids()
    detection = detection_of(lm, ids)
    vector = 3 * steering.mean_hidden(Moments.of(detection.h).mean)
    token, step = torch.tensor([9]), math.log(20)
    found = rounded_rows.rounded(lm, detection, token, vector, torch.bfloat16)
    row = (lm.E[9].double() + step * vector).to(torch.bfloat16).double()
    with steering.edited_rows(lm, token, (row - lm.E[9].double())[None]):
        after = torch.log_softmax(models.logits(lm, ids).flatten(0, 1), dim=1)[:, 9]
    reached = float(torch.logsumexp(after, 0) - math.log(len(after)) - detection.log_a_rows[9])
    assert found.mae == pytest.approx(abs(reached - step), abs=1e-6)
    assert found.mae != pytest.approx(found.unrounded, abs=1e-6)


def test_in_float64_nothing_is_lost() -> None:
    lm = tiny.language_model("divided", dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    vector = steering.mean_hidden(Moments.of(detection.h).mean)
    found = rounded_rows.rounded(lm, detection, TOKENS, vector, torch.float64)
    assert found.measured < 1e-12
    assert found.mae == pytest.approx(found.unrounded)
    table = rounded_rows.table(lm, detection, TOKENS, {"a": vector, "b": 2 * vector})
    assert list(table["precision"]) == ["bfloat16", "float16"] * 2
    assert list(table["direction"]) == ["a", "a", "b", "b"]
    metrics = rounded_rows.metrics(table)
    assert len(metrics) == 12
    assert metrics["rounded_float16_b_mae"] == table["mae"].iloc[3]
