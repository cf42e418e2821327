"""Shares of parts and neurons in -E_w . mean(h) against brute force, and what silencing does."""

import numpy as np
import pytest
import streams
import tiny
import torch

from probenc_support import corpora, inference, models, regression, theory
from probenc_support.models import neurons as of_models
from probenc_support.theory import mean_hidden_parts, neurons_of_mean


def read(name: str):
    lm = streams.language_model(name)
    blocks = corpora.blocks(
        "docstrings:scipy", lm.tokenizer, n_positions=320, sequence_length=16,
        context_length=lm.context_length,
    )  # fmt: skip
    detection = inference.detect(lm, blocks, cache=False, progress=False)
    design = regression.Design.of(lm.head.rows)
    parts = theory.MeanHiddenParts.of(lm, blocks, detection, design)
    return lm, blocks, detection, design, parts


@pytest.fixture(scope="module", params=["neox", "gemma3", "t5"])
def case(request, module_cache):
    return read(request.param)


def test_vectors_add_up_to_the_mean_hidden_state(case) -> None:
    _, blocks, detection, _, parts = case
    chosen = mean_hidden_parts.blocks_to_read(*blocks.ids.shape)
    h = detection.h[torch.isin(detection.block, chosen)]
    assert parts.n_positions == len(h)
    # A pass keeps its hidden states in float32.
    torch.testing.assert_close(parts.mean, h.double().mean(0), atol=1e-6, rtol=1e-6)


def test_shares_are_covariances_over_the_tokens(case) -> None:
    lm, _, detection, design, parts = case
    E = lm.head.rows.double()
    terms = -(E @ parts.vectors.T).numpy()
    whole = terms.sum(axis=1)
    expected = [np.cov(term, whole)[0, 1] / whole.var(ddof=1) for term in terms.T]
    table = parts.table(design, detection.y, n_replicates=20)
    np.testing.assert_allclose(table["share"], expected, atol=1e-10)
    assert table["share"].sum() == pytest.approx(1.0)
    assert (table["low"] <= table["high"]).all()
    y = detection.y.numpy()
    of_y = [np.cov(term, y)[0, 1] / y.var(ddof=1) for term in terms.T]
    np.testing.assert_allclose(table["share_y"], of_y, atol=1e-9)


def test_deviations_are_those_of_single_positions(case) -> None:
    """By brute force: what the model makes of each part at each position, no sums."""
    lm, blocks, _, design, parts = case
    stream = mean_hidden_parts.ResidualStream.of(lm)
    chosen = mean_hidden_parts.blocks_to_read(*blocks.ids.shape)
    found = stream.read(blocks.ids[chosen])
    assert stream.norm is not None
    E = lm.head.rows.double()
    E = E - E.mean(0)
    logits = (found.h - found.h.mean(0)) @ E.T
    expected = [0.0]
    for part in found.parts:
        given = stream.norm.direct(part) * found.inverse_scale[:, None]
        expected.append(
            float(((given - given.mean(0)) @ E.T * logits).sum() / logits.square().sum())
        )
    np.testing.assert_allclose(parts.shares_of_deviations(design), expected, atol=1e-9)
    assert sum(expected) == pytest.approx(1.0)


def test_intervals_are_of_texts_drawn_again(case) -> None:
    _, _, _, design, parts = case
    times = torch.zeros(1, len(parts.sizes), dtype=torch.float64)
    times[0, 0] = 3
    alone = (parts.sums[:, 0] / parts.sizes[0], parts.bias)
    vectors = torch.cat([alone[1][None], alone[0]])
    whole = vectors.sum(0)
    expected = vectors @ design.gram @ whole / (whole @ design.gram @ whole)
    torch.testing.assert_close(parts.shares(design, times)[:, 0], expected)
    metrics = parts.metrics(design, n_replicates=20)
    whole_share = [metrics[f"parts_{kind}"] for kind in ("bias", "embedding", "attention", "mlp")]
    assert sum(whole_share) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["bart", "bert"])
def test_without_parts_there_is_the_bias_and_the_rest(module_cache, name) -> None:
    _, blocks, detection, design, parts = read(name)
    h = detection.h[
        torch.isin(detection.block, mean_hidden_parts.blocks_to_read(*blocks.ids.shape))
    ]
    torch.testing.assert_close(parts.mean, h.double().mean(0), atol=1e-6, rtol=1e-6)
    table = parts.table(design, detection.y, n_replicates=20)
    assert list(table["part"]) == ["bias of the norm", "rest"]
    assert table["share"].sum() == pytest.approx(1.0)
    assert table["share_deviations"].tolist() == pytest.approx([0.0, 1.0])
    assert parts.bias.any()
    assert theory.NeuronShares.of(parts, design, detection.y) is None


def test_shares_of_neurons_add_up_to_those_of_mlps_without_biases(module_cache) -> None:
    _, _, detection, design, parts = read("gemma3")
    shares = theory.NeuronShares.of(parts, design, detection.y)
    assert shares is not None
    table = parts.table(design, detection.y, n_replicates=20)
    of_mlps = table.loc[table["part"] == "MLP", "share"]
    by_layer = [float(shares.share[shares.layer == layer].sum()) for layer in (1, 2, 3)]
    np.testing.assert_allclose(by_layer, of_mlps, atol=1e-9)


def test_correlation_of_a_neuron_is_that_of_its_direct_effect(case) -> None:
    lm, _, detection, design, parts = case
    shares = theory.NeuronShares.of(parts, design, detection.y)
    assert shares is not None
    assert parts.norm is not None
    E = lm.head.rows.double()
    for i in (0, 7, len(shares.share) - 1):
        weights = shares.mlps[int(shares.mlp[i])].weights[int(shares.number[i])]
        effect = E @ parts.norm.direct(weights)
        expected = -np.corrcoef(effect.numpy(), detection.y.numpy())[0, 1]
        assert float(shares.correlation[i]) == pytest.approx(expected, abs=1e-5)


def test_a_planted_neuron_is_found_and_the_model_loses_it(module_cache) -> None:
    """A neuron of the last layer that always fires along a random direction."""
    lm = streams.language_model("neox")
    mlp = lm.model.gpt_neox.layers[2].mlp
    with torch.no_grad():
        mlp.dense_h_to_4h.weight[5] = 0.0
        mlp.dense_h_to_4h.bias[5] = 3.0
        mlp.dense_4h_to_h.weight[:, 5] = torch.randn(16, dtype=torch.float64)
    blocks = corpora.blocks("docstrings:scipy", lm.tokenizer, n_positions=320, sequence_length=16)
    detection = inference.detect(lm, blocks, cache=False, progress=False)
    design = regression.Design.of(lm.head.rows)
    parts = theory.MeanHiddenParts.of(lm, blocks, detection, design)
    shares = theory.NeuronShares.of(parts, design, detection.y)
    assert shares is not None
    top = int(shares.strongest(1))
    assert (int(shares.layer[top]), int(shares.number[top])) == (3, 5)
    assert float(shares.share[top]) > 0.5
    found = theory.without(lm, shares, blocks, detection, design).set_index("neurons")
    assert found["kept"]["strongest"] < 0.5
    lots = found[found.index.str.startswith(neurons_of_mean.BY_LOT)]
    assert len(lots) == neurons_of_mean.N_LOTS
    assert (lots["kept"] - 1).abs().max() < 0.2, "the control does nothing"
    metrics = shares.metrics(found.reset_index())
    assert metrics["parts_neurons_for_half"] == 1


@pytest.mark.parametrize("name", ["neox", "gpt2", "llama"])
def test_neurons_at_zero_are_output_weights_at_zero(name: str) -> None:
    lm = streams.language_model(name)
    ids = torch.arange(1, 25).reshape(2, 12)
    mlp = [m for m in mean_hidden_parts.ResidualStream.of(lm).parts if m.kind == "MLP"][1].neurons
    assert mlp is not None
    numbers = torch.tensor([3, 8])
    intact = models.hidden_states(lm, ids)
    with of_models.held({mlp: (numbers, torch.zeros(2))}):
        held = models.hidden_states(lm, ids)
    torch.testing.assert_close(models.hidden_states(lm, ids), intact)
    stored = mlp.projection.weight
    with torch.no_grad():
        (stored if name == "gpt2" else stored.T)[numbers] = 0.0
    edited = models.hidden_states(lm, ids)
    torch.testing.assert_close(held, edited)
    assert not torch.allclose(held, intact)


def test_neurons_by_lot_are_as_long_and_others() -> None:
    weights = torch.arange(1.0, 201.0)[:, None] * torch.ones(1, 4)
    numbers = torch.tensor([10, 11, 100])
    generator = torch.Generator().manual_seed(0)
    others = of_models.like_in_norm(weights, numbers, generator=generator)
    assert len(set(others.tolist()) | set(numbers.tolist())) == 6
    assert int((others - numbers).abs().max()) <= 13


@pytest.mark.parametrize(("n", "length"), [(1, 16), (2, 16), (20, 16), (64, 256), (1000, 256)])
def test_blocks_to_read_leave_some(n: int, length: int) -> None:
    chosen = mean_hidden_parts.blocks_to_read(n, length)
    left = mean_hidden_parts.blocks_left(n, length)
    assert len(chosen) * length <= mean_hidden_parts.N_POSITIONS
    assert len(left) >= 1
    assert max(chosen.tolist() + left.tolist()) < n
    assert n == 1 or not set(chosen.tolist()) & set(left.tolist())


def test_divergence_is_that_of_the_distributions() -> None:
    lm = tiny.language_model("bias", dtype=torch.float64)
    h = torch.randn(9, lm.d, dtype=torch.float64)
    P = torch.softmax(lm.head.logits(h), dim=1)
    a = torch.softmax(torch.randn(lm.V, dtype=torch.float64), dim=0)
    expected = float((P * (P / a).log()).sum(1).mean())
    found = neurons_of_mean.divergence_from(a.log(), lm.head, h, step=4)
    assert found == pytest.approx(expected, rel=1e-9)


def test_directions_say_of_the_tokens_what_their_products_do() -> None:
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(300, 6, generator=generator, dtype=torch.float64) + 2
    y, f, u = E @ torch.arange(6.0).double(), torch.randn(300).double(), torch.randn(6).double()
    design = regression.Design.of(E)
    A = design.fit(y).slopes
    found = theory.directions_and_tokens(design, {"u": u, "A": A}, A, y, f).set_index("direction")
    effect = (E @ u).numpy()
    assert found["y"]["u"] == pytest.approx(np.corrcoef(effect, y)[0, 1])
    assert found["frequency"]["u"] == pytest.approx(np.corrcoef(effect, f)[0, 1])
    assert found["fitted"]["u"] == pytest.approx(np.corrcoef(effect, E.numpy() @ A)[0, 1])
    assert found["fitted"]["A"] == pytest.approx(1.0)
    assert found["cosine"]["A"] == pytest.approx(1.0)
    assert 0.5 < found["y"][theory.BY_LOT] < 1.0, "six dimensions: large correlations by lot"
