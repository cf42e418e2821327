"""Directions from few positions."""

import math

import pandas as pd
import pytest
import tiny
import torch
from test_steering import detection_of, some_ids

from probenc_support import regression, steering
from probenc_support.moments import Moments
from probenc_support.steering import closed_form, few_examples
from probenc_support.steering.omegas import Omega

TOKENS = torch.arange(1, 320, 11)


def test_from_few_positions_to_all_of_them() -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    detection, test = detection_of(lm, some_ids(8)), detection_of(lm, some_ids(4).flip(1))
    design = regression.Design.of(lm.E[lm.tokens])
    table = few_examples.errors_by_size(
        lm, design, detection, test, TOKENS, {"paper": Omega(3, 1)},
        scale=5.0, sizes=(8, 64, 1024), n_draws=(4, 2, 1),
    )  # fmt: skip
    names = ["paper", "min_norm", "min_variance", "random_unit", "logit_bias"]
    assert list(table["direction"].unique()) == names
    sizes = table[table["direction"] == "paper"].groupby("positions").size()
    assert sizes.to_dict() == {8: 4, 64: 2, 256: 1}, "no more positions than there are"

    A = torch.from_numpy(design.fit(detection.y).slopes)
    ridge = steering.choose_ridge([Moments.of(part) for part in detection.h.tensor_split(4)])
    vectors = {
        "paper": Omega(3, 1).direction(A),
        "min_variance": steering.min_variance(Moments.of(detection.h), ridge),
    }
    whole = table[table["positions"] == 256].set_index("direction")
    for name, vector in vectors.items():
        for column, text in (("local", detection), ("mae", test)):
            log_p = lm.head.log_p(text.h, TOKENS, text.z)
            g = (text.h.double() @ vector)[:, None]
            error = float(closed_form.mean_errors(log_p, g, math.log(5)))
            assert whole.loc[name, column] == pytest.approx(error, rel=1e-4)
    assert (table["kl"] >= 0).all()


def test_few_positions_flatter_the_direction_that_is_fitted_to_them() -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    detection, test = detection_of(lm, some_ids(8)), detection_of(lm, some_ids(4).flip(1))
    design = regression.Design.of(lm.E[lm.tokens])
    table = few_examples.errors_by_size(
        lm, design, detection, test, TOKENS, {}, sizes=(8,), n_draws=(10,)
    )
    few = table[table["positions"] == 8].groupby("direction")[["local", "mae"]].mean()
    assert few.loc["min_variance", "local"] < 0.8 * few.loc["min_variance", "mae"]
    assert few.loc["logit_bias", "mae"] < 0.5 * few.loc["min_variance", "mae"]
    bias = table[(table["direction"] == "logit_bias")]["mae"]
    assert float(bias.max() - bias.min()) < 1e-12, "it needs no positions"


def test_the_summary_is_of_draws_and_metrics_are_of_the_fewest_and_of_1024_positions() -> None:
    errors = pd.DataFrame(
        {
            "positions": [16, 16, 64, 1024], "draw": [0, 1, 0, 0], "direction": "paper",
            "local": [0.1, 0.3, 0.2, 0.2], "mae": [0.5, 0.9, 0.4, 0.3], "kl": [1.0, 3.0, 1.0, 0.5],
        }
    )  # fmt: skip
    means = few_examples.summary(errors)
    assert means.loc[("paper", 16)].to_dict() == pytest.approx(
        {"local": 0.2, "mae": 0.7, "kl": 2.0, "worst": 0.9}
    )
    assert few_examples.metrics(means) == pytest.approx(
        {
            "steer_mae_paper_20x_from_16": 0.7, "steer_mae_paper_20x_local_from_16": 0.2,
            "steer_kl_paper_20x_from_16": 2.0, "steer_mae_paper_20x_from_16_worst": 0.9,
            "steer_mae_paper_20x_from_1024": 0.3, "steer_mae_paper_20x_local_from_1024": 0.2,
            "steer_kl_paper_20x_from_1024": 0.5,
        }
    )  # fmt: skip
