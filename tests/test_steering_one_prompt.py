"""One token after one prompt, beside a really edited model."""

import math

import pytest
import tiny
import torch
from test_steering import detection_of, log_softmax_of, some_ids

from probenc_support import steering
from probenc_support.moments import Moments
from probenc_support.steering import one_prompt


@pytest.mark.parametrize("style", ["untied", "bias", "padded"])
def test_the_probability_is_that_of_the_edited_model(style: str) -> None:
    lm = tiny.language_model(style, dtype=torch.float64)
    detection = detection_of(lm, some_ids())
    vector = steering.min_variance(Moments.of(detection.h), 1e-3)
    prompt = one_prompt.encode(lm, "The function of<|endoftext|>")
    assert int(prompt[0, -1]) == 0, "a special token that is written is meant"
    table = one_prompt.at_scales(
        lm, prompt, 70, detection=detection, direction=vector, scales=(0.2, 3.0, 1e9), n_tokens=3
    )
    assert table["scale"].tolist() == [0.2, 3.0], "a scale that no edit reaches is left out"
    log_p = lm.head.log_p(detection.h, torch.tensor([70]), detection.z)
    g = detection.h.double() @ vector
    for row in table.to_dict("records"):
        wanted = torch.tensor([math.log(row["scale"])], dtype=torch.float64)
        step = steering.solve_steps(log_p, g, wanted)[0]
        with steering.edited_rows(lm, torch.tensor([70]), step * vector[None]):
            new = log_softmax_of(lm.model, prompt)[-1, 70].exp()
        assert row["probability after the prompt"] == pytest.approx(float(new), rel=1e-4)
        assert row["continuation"]
    likeliest = int(log_softmax_of(lm.model, prompt)[-1, lm.tokens].argmax())
    assert one_prompt.likeliest(lm, prompt) == likeliest


def test_a_prompt_that_fills_the_context_has_no_continuation() -> None:
    lm = tiny.language_model("untied")
    detection = detection_of(lm, some_ids())
    vector = steering.min_variance(Moments.of(detection.h), 1e-3)
    prompt = some_ids(1, tiny.CONTEXT)
    table = one_prompt.at_scales(
        lm, prompt, 70, detection=detection, direction=vector, scales=(1.0,)
    )
    assert table["continuation"].tolist() == [""]
