"""Rounding noise against embeddings that are really rounded, by GGUF's own code too."""

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize

from probenc_support.quantisation import steps
from probenc_support.regression import Design
from probenc_support.sparsity import Components, Statistics, bands, rounding


def rounded_again(E: torch.Tensor, *, bits: int = 8, seed: int = 0) -> torch.Tensor:
    """E [n, d] with the error of one more rounding, on a grid that is shifted at random.

    On the grid on which E lies already it would stay as it is. A random shift makes the error
    uniform over a step and independent of E, exactly (Schuchman 1964), so that it is drawn.
    """
    rows = torch.as_tensor(E)
    generator = torch.Generator().manual_seed(seed)
    error = torch.rand(rows.shape, generator=generator).to(rows.device, rows.dtype).sub_(0.5)
    return error.mul_(steps(rows, bits, block=rounding.BLOCK)).add_(rows)


def embedding(n=4000, d=64):
    """Rows of correlated dimensions, the last components narrow."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (rng.normal(size=(n, d)) * np.geomspace(1.0, 0.01, d) @ turn).astype(np.float32)


def as_stored(E):
    kind = gguf.GGMLQuantizationType.Q8_0
    return dequantize(quantize(E, kind), kind).astype(np.float32)


def test_the_steps_of_a_stored_embedding_can_be_read_off_it():
    stored = as_stored(embedding())
    in_steps = stored / steps(torch.from_numpy(stored), 8, block=rounding.BLOCK).numpy()
    np.testing.assert_allclose(in_steps, np.round(in_steps), atol=1e-2)
    assert np.abs(in_steps).max() == pytest.approx(127.0, abs=1e-3)


def test_the_noise_is_that_of_gguf_along_every_component():
    E = embedding()
    stored = as_stored(E)
    components = Components.of(Statistics.of(Design.of(stored), stored[:, 0]))
    by_component = rounding.RoundingOfComponents.of(components, rounding.noise(stored))
    seen = np.square((stored - E).astype(float) @ components.directions).mean(0)
    np.testing.assert_allclose(by_component.noise, seen, rtol=0.2)
    np.testing.assert_allclose(by_component.noise.mean(), seen.mean(), rtol=0.05)
    assert 0.0 < by_component.share[0] < by_component.share[-1] <= 1.0


def test_rounding_again_is_rounding_on_a_shifted_grid():
    """Against the long way: the shift added, rounded, and taken off again."""
    E = torch.from_numpy(as_stored(embedding()))
    step = steps(E, 8, block=rounding.BLOCK).double()
    shift = torch.rand(E.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    long = ((E / step + shift).round() - shift) * step - E
    short = rounded_again(E).double() - E
    for error in (long, short):
        part = (error / step)[:, ::7]
        assert float(part.abs().max()) <= 0.5 + 1e-3
        assert float(part.var()) == pytest.approx(1 / 12, rel=0.01)
        assert abs(float((part * E[:, ::7]).mean())) < 0.01 * float(E.abs().mean())
    torch.testing.assert_close(rounded_again(E), rounded_again(E))
    coarse = (rounded_again(E, bits=4) - E).square().mean()
    assert float(coarse / short.square().mean()) == pytest.approx((127 / 7) ** 2, rel=0.01)


def test_blocks_at_the_end_of_a_row_may_be_short():
    E = torch.arange(1.0, 41.0)[None]
    expected = torch.cat([torch.full((32,), 32.0), torch.full((8,), 40.0)])[None] / 127
    torch.testing.assert_close(steps(E, 8, block=rounding.BLOCK), expected)


def test_rounding_has_the_same_part_in_r2_as_in_the_variance():
    """y is linear in the stored E: the part of the last components' R^2 that goes when the noise is
    taken out of E is the part that is said."""
    E = embedding()
    stored = rounded_again(torch.from_numpy(E), bits=5).numpy()
    slopes = np.random.default_rng(2).normal(size=64)
    y = stored.astype(float) @ slopes
    components = Components.of(Statistics.of(Design.of(stored), y))
    by_component = rounding.RoundingOfComponents.of(components, rounding.noise(E, bits=5))
    r = components.express(Statistics.of(Design.of(stored), y)).correlation
    last = bands.last(len(r), 0.1)
    error = (stored - E).astype(float) @ components.directions[:, last]
    moved = (error * (components.directions[:, last].T @ slopes)).var(0).sum() / y.var()
    assert by_component.of_r2(r)[last].sum() == pytest.approx(moved, rel=0.15)
    whole = rounding.r2_of_last(Statistics.of(Design.of(stored), y))
    assert whole == pytest.approx(np.square(r[last]).sum(), abs=1e-10)


@pytest.mark.parametrize("bits", [12, 8, 4])
def test_a_second_rounding_is_foretold_without_a_draw(bits):
    """And it drowns components that are as narrow as it is."""
    E = torch.from_numpy(embedding())
    before = Statistics.of(Design.of(E), E[:, 0])
    y = E.double().numpy() @ Components.of(before).directions[:, -6:].sum(1)
    drawn = Statistics.of(Design.of(rounded_again(E, bits=bits)), y)
    foretold = rounding.with_noise(Statistics.of(Design.of(E), y), rounding.noise(E, bits=bits))
    assert foretold.r2 == pytest.approx(drawn.r2, abs=0.01)
    last = rounding.r2_of_last(foretold)
    assert last == pytest.approx(rounding.r2_of_last(drawn), abs=0.06)
    assert last < 0.2 if bits == 4 else last > 0.9


def test_words_name_what_is_known():
    assert "Q4_1 body" in rounding.in_words("Q4_1 body, Q8_0 output embedding")
    assert "not quantised" in rounding.in_words("")
