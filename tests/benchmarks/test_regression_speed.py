"""The fit beside the usual ways to do it, at the size of SmolLM2-135M's output embedding.

    pytest tests/benchmarks/test_regression_speed.py

Every way gets the same float32 E, as a model has it, and must end with the same slopes. What is
counted are the leading terms of each algorithm's floating-point operations, by Golub and Van Loan's
"Matrix Computations"; the share is of the rate of a float64 matrix product.
"""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
import yardsticks
from scipy import linalg
from scipy.linalg import blas
from sklearn.linear_model import LinearRegression, Ridge

from probenc_support.regression import Design, bootstrap_r2_adj, fit, r2_heldout

V, D = 49_152, 576


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    E = rng.standard_normal((V, D), dtype=np.float32) * np.geomspace(1.0, 0.05, D, dtype=np.float32)
    slopes = rng.standard_normal(D)
    return E, E.astype(np.float64) @ slopes + rng.standard_normal(V), slopes


def by_probenc(E, y):
    return fit(E, y).slopes


def by_statsmodels_pinv(E, y):
    return sm.OLS(y, sm.add_constant(E.astype(np.float64))).fit().params[1:]


def by_statsmodels_qr(E, y):
    return sm.OLS(y, sm.add_constant(E.astype(np.float64))).fit(method="qr").params[1:]


def by_scikit_learn(E, y):
    return LinearRegression().fit(E.astype(np.float64), y).coef_


def by_torch_lstsq(E, y):
    X = torch.cat([torch.from_numpy(E).double(), torch.ones(len(E), 1, dtype=torch.float64)], 1)
    return torch.linalg.lstsq(X, torch.from_numpy(y)[:, None]).solution[:-1, 0].numpy()


def by_torch_gels(E, y):
    """QR without pivoting, which is quicker than the default and needs full rank."""
    X = torch.cat([torch.from_numpy(E).double(), torch.ones(len(E), 1, dtype=torch.float64)], 1)
    solved = torch.linalg.lstsq(X, torch.from_numpy(y)[:, None], driver="gels")
    return solved.solution[:-1, 0].numpy()


def by_dsyrk_and_cholesky(E, y):
    """The same algorithm as here in a dozen lines of SciPy, with a float64 copy of all of E."""
    X = E.astype(np.float64)
    X -= X.mean(0)
    gram = blas.dsyrk(1.0, X.T, lower=1)
    return linalg.cho_solve(linalg.cho_factor(gram, lower=True), X.T @ (y - y.mean()))


def by_scikit_learn_cholesky(E, y):
    """Ridge's Cholesky solver without a ridge."""
    return Ridge(alpha=0.0, solver="cholesky").fit(E.astype(np.float64), y).coef_


GRAM = V * D * (D + 1) + D**3 / 3
"""One triangle of the Gram matrix, and its Cholesky factor."""


QR = 2 * V * D**2 - 2 * D**3 / 3
"""Householder's reflections; to form Q takes as many again."""


OPERATIONS = {
    by_probenc: GRAM,
    by_statsmodels_pinv: 6 * V * D**2 + 20 * D**3 + 2 * V * D**2,  # SVD with U, and a product
    by_statsmodels_qr: 2 * QR,
    by_scikit_learn: 2 * V * D**2 + 2 * D**3,  # LAPACK's gelsd: SVD of the R of a QR
    by_torch_lstsq: QR,  # gelsy: with pivoting
    by_torch_gels: QR,
    by_dsyrk_and_cholesky: GRAM,
    by_scikit_learn_cholesky: GRAM,
}


@pytest.mark.benchmark(
    group=f"The log-linear fit, {V:,} x {D}", min_rounds=3, max_time=1.0, warmup=True
)
@pytest.mark.parametrize("way", OPERATIONS, ids=lambda way: way.__name__.removeprefix("by_"))
def test_fit(benchmark, data, way):
    E, y, slopes = data
    peak = yardsticks.product(torch.float64).rate()
    found = benchmark(way, E, y)
    rate = OPERATIONS[way] / benchmark.stats.stats.median
    benchmark.extra_info["billion_operations"] = OPERATIONS[way] / 1e9
    benchmark.extra_info["share_of_float64_product_rate"] = rate / peak
    np.testing.assert_allclose(found, by_probenc(E, y), rtol=1e-7, atol=1e-9)
    assert np.corrcoef(found, slopes)[0, 1] > 0.99


@pytest.fixture(scope="module")
def design(data):
    return Design.of(data[0])


@pytest.mark.benchmark(
    group="What its statistics make cheap", min_rounds=3, max_time=1.0, warmup=True
)
def test_another_y(benchmark, design, data):
    assert benchmark(design.fit, data[1]).n == V


@pytest.mark.benchmark(
    group="What its statistics make cheap", min_rounds=3, max_time=1.0, warmup=True
)
def test_ten_fold_cross_validation(benchmark, design, data):
    assert 0.0 < benchmark(r2_heldout, design, data[1]) < 1.0


@pytest.mark.benchmark(
    group="What its statistics make cheap", min_rounds=3, max_time=1.0, warmup=True
)
def test_bootstrap_of_200_replicates(benchmark, design, data):
    noise = np.random.default_rng(1).standard_normal((64, V), dtype=np.float32)
    groups = noise - data[1].astype(np.float32)
    found = benchmark(bootstrap_r2_adj, design, groups, np.full(64, 256))
    assert found.low < found.estimate < found.high
