"""The output head: logits, log-partition and log-probabilities from hidden states.

Probabilities are accumulated so that none underflows, and memory is bounded by chunk x V.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.precision import wide, wide_device

_CHUNK_BYTES = {"cpu": 32e6, "cuda": 2e9}
_TINY = 1e-30
"""Sums of probabilities below this are made again in log space: float32 ends at 1e-38."""


class Head:
    """The output embedding E and bias b of a model, and which of its rows are tokens.

    Logits are E h + b over all V rows. Some rows may be padding that no token owns: they take
    their share of the softmax, and nothing is said of them. What has one entry for each token
    (`rows`, `bias`, `log_p`, `log_mean_p`) thus has one for each of `tokens`, in this
    order; what has one for each row of the head, padding included, says so (`logits`, `sums`).
    """

    def __init__(self, E: Tensor, b: Tensor | None = None, tokens: Tensor | None = None) -> None:
        """
        Args:
            E: [V, d] output embedding, float32 or float64.
            b: [V] head bias; None: there is none.
            tokens: [n] int64, ascending: the rows that tokens own; None: all of them.

        Raises:
            InputError: sizes do not fit, or a token has no row.
        """
        if b is not None and b.shape != E.shape[:1]:
            raise InputError(f"A bias of shape {list(b.shape)} does not fit {len(E)} rows of E.")
        every = torch.arange(len(E))
        tokens = every if tokens is None else tokens
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(E):
            raise InputError(f"Some of the tokens have no row among the {len(E)} of E.")
        self.E, self.b, self.tokens = E, b, tokens
        self._all_rows = torch.equal(tokens.cpu(), every)

    @property
    def V(self) -> int:
        """Rows of E, padding rows included."""
        return int(self.E.shape[0])

    @property
    def d(self) -> int:
        """Hidden size."""
        return int(self.E.shape[1])

    @cached_property
    def rows(self) -> Tensor:
        """[n, d] rows of E that tokens own."""
        return self.of_tokens(self.E)

    @cached_property
    def bias(self) -> Tensor | None:
        """[n] entries of b that tokens own; None where the head has no bias."""
        return None if self.b is None else self.of_tokens(self.b)

    def of_tokens(self, values: Tensor, *, dim: int = 0) -> Tensor:
        """Entries of `values` that belong to tokens, where dimension `dim` has one for each row."""
        if self._all_rows:
            return values
        return values.index_select(dim, self.tokens.to(values.device))

    def chosen(self, tokens: Tensor) -> "Head":
        """A head of some rows alone, by id [k] in any order: all of its rows are tokens.

        Its log-partition is that of a smaller vocabulary: give `z` of the whole head to `log_p`.
        """
        rows = tokens.to(self.E.device)
        return Head(self.E[rows], None if self.b is None else self.b[rows])

    def cpu(self) -> "Head":
        """The same head in the memory of the CPU."""
        return Head(self.E.cpu(), None if self.b is None else self.b.cpu(), self.tokens.cpu())

    def logits(self, h: Tensor) -> Tensor:
        """[N, V] logits of hidden states h [N, d] over all rows: what the softmax is taken of."""
        return h @ self.E.T if self.b is None else torch.addmm(self.b, h, self.E.T)

    def sums(self, *, chunk: int = 0) -> "HeadSums":
        """An accumulator over positions; see `HeadSums`."""
        return HeadSums(self, chunk=chunk)

    @torch.inference_mode()
    def log_partition(self, h: Tensor) -> Tensor:
        """[N] float64 logsumexp of the logits over all rows, for h [N, d]."""
        return self.sums().add(h.to(self.E))

    def log_p(self, h: Tensor, tokens: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """Log-probabilities of tokens at positions, at most 0.

        Args:
            h: [N, d] hidden states.
            tokens: [K] int64 ids; None: all that are tokens.
            z: [N] log-partition where it is known, as of a pass; None: it is made.

        Returns:
            [N, K] float64, nats, where h is.
        """
        z = self.log_partition(h).to(h.device) if z is None else z
        rows = self.tokens if tokens is None else tokens
        logits = h.double() @ self.E[rows.to(self.E.device)].to(h.device).double().T
        if self.b is not None:
            logits = logits + self.b[rows.to(self.b.device)].to(h.device).double()
        return (logits - z[:, None]).clamp(max=0.0)

    @torch.inference_mode()
    def log_mean_p(self, h: Tensor) -> Tensor:
        """[n] float64 log of the average probability of each token over h [N, d], on the CPU."""
        sums = self.sums()
        sums.add(h.to(self.E))
        return self.of_tokens(sums.log_a.cpu())


class HeadSums:
    """Accumulates over positions: sums of probabilities and of logits of all V tokens.

    One buffer of chunk x V is filled by a matrix product and reused; every other step is a sweep
    over it. Sums of probabilities run in linear space in the model's precision; the few columns
    whose sum comes near the smallest float are made again in log space.
    """

    def __init__(self, head: Head, *, chunk: int = 0) -> None:
        """
        Args:
            head: the whole of it; sums are kept of all rows.
            chunk: positions a matrix product; 0: as many as fit the buffer's size.
        """
        E = head.E
        V = E.shape[0]
        size = _CHUNK_BYTES.get(E.device.type, 32e6)
        self.E, self.b = E, head.b
        self.chunk = chunk or max(16, int(size / (V * E.element_size())))
        self._buffer = E.new_empty(0)
        self.reset()

    def reset(self) -> None:
        """Forgets all positions."""
        V, device = self.E.shape[0], wide_device(self.E.device)
        self.n = 0
        self._log_sum = torch.full((V,), -torch.inf, dtype=torch.float64, device=device)
        self._log_p_sum = torch.zeros(V, dtype=torch.float64, device=device)

    def add(self, h: Tensor) -> Tensor:
        """Adds positions with hidden states h [n, d]; returns their log-partition [n] float64."""
        return torch.cat([self._add(part) for part in h.split(self.chunk)])

    def _add(self, h: Tensor) -> Tensor:
        if self._buffer.numel() == 0:
            self._buffer = self.E.new_empty((self.chunk, self.E.shape[0]))
        logits = torch.mm(h, self.E.T, out=self._buffer[: len(h)])
        if self.b is not None:
            logits += self.b
        top = logits.amax(dim=1)
        logit_sum = wide(logits.sum(dim=0))
        weights = logits.sub_(top[:, None]).exp_()
        mass = weights.sum(dim=1)
        z = self._log_partition(h, weights, top, mass)
        p_sum = torch.mv(weights.T, 1 / mass)
        self._log_sum = torch.logaddexp(self._log_sum, self._log(p_sum, h, z))
        self._log_p_sum += logit_sum - z.sum()
        self.n += len(h)
        return z

    def _log_partition(self, h: Tensor, weights: Tensor, top: Tensor, mass: Tensor) -> Tensor:
        """[n] float64 logsumexp, from weights exp(logit - top) [n, V] and their sums `mass` [n].

        Where one token has more than half of the probability, its logit is made again in float64.
        So what is left for the others, 1 - p = 1 - exp(logit - z), keeps its digits when the logit
        is: the rounding of the matrix product would shift logit and z apart.
        """
        z = wide(top) + wide(mass).log()
        sure = torch.nonzero(mass < 2).flatten()
        best = weights[sure].argmax(dim=1)
        logit = torch.linalg.vecdot(wide(h[sure]), wide(self.E[best]))
        if self.b is not None:
            logit += wide(self.b[best])
        z[sure.to(z.device)] += logit - wide(top[sure])
        return z

    def _log(self, p_sum: Tensor, h: Tensor, z: Tensor) -> Tensor:
        """log of the sums of probabilities, exact also where they underflow."""
        log_sum = wide(p_sum).log()
        low = torch.nonzero(p_sum < _TINY).flatten()
        for columns in low.split(4096):
            logits = wide(h) @ wide(self.E[columns]).T
            if self.b is not None:
                logits += wide(self.b[columns])
            log_sum[columns.to(z.device)] = torch.logsumexp(logits - z[:, None], dim=0)
        return log_sum

    @property
    def log_a(self) -> Tensor:
        """[V] float64 log of the average probability."""
        return self._log_sum - math.log(self.n)

    @property
    def mean_log_p(self) -> Tensor:
        """[V] float64 average log-probability."""
        return self._log_p_sum / self.n
