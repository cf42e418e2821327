"""The output head: logits, log-partition and log-probabilities from hidden states.

Probabilities are accumulated so that none underflows, and memory is bounded by chunk x V.
"""

import itertools
import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from probenc_support.errors import InputError
from probenc_support.precision import wide, wide_device

_CHUNK_BYTES = {"cpu": 32e6, "cuda": 2e9}
_TINY = 1e-30
"""Sums of probabilities below this are made again in log space: float32 ends at 1e-38."""


_MIXED = "dtype_out" in torch.ops.aten.mm.overloads()
"""Whether this torch multiplies matrices of half precision into one of float32."""


class Head:
    """The output embedding E and bias b of a model, and which of its rows are tokens.

    Logits are E h + b over all V rows. Some rows may be padding that no token owns: they take
    their share of the softmax, and nothing is said of them. What has one entry for each token
    (`rows`, `bias`, `log_p`, `log_mean_p`) thus has one for each of `tokens`, in this
    order; what has one for each row of the head, padding included, says so (`logits`, `sums`).
    """

    def __init__(
        self,
        E: Tensor,
        b: Tensor | None = None,
        tokens: Tensor | None = None,
        *,
        half: Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        """
        Args:
            E: [V, d] output embedding, float32 or float64.
            b: [V] head bias; None: there is none.
            tokens: [n] int64, ascending: the rows that tokens own; None: all of them.
            half: [V, d] in half precision, where E = scale x half loses nothing of it: the weights
                as the model has them. `sums` works from it where that is quicker.
            scale: see there.

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
        self.half, self.scale = half, scale
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

    def logits_of_mean(self, mean: Tensor) -> Tensor:
        """[V] float64 logits of one hidden state [d], which may be a mean: they are linear in it.

        In float64, a part of the rows at a time, where E lies (on the CPU if it has no float64).
        """
        state = wide(mean.to(wide_device(self.E.device)))
        parts = self.E.split(max(1, int(_chunk_bytes(self.E) / (8 * self.d))))
        logits = torch.cat([wide(rows) @ state for rows in parts])
        return logits if self.b is None else logits + wide(self.b)

    def sums(self, *, chunk: int = 0) -> "HeadSums":
        """An accumulator over positions; see `HeadSums`."""
        return HeadSums(self, chunk=chunk)

    @torch.inference_mode()
    def log_partition(self, h: Tensor) -> Tensor:
        """[N] float64 logsumexp of the logits over all rows, for h [N, d]."""
        return self.sums().add(h.to(self.E))

    def log_p(self, h: Tensor, tokens: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """Log-probabilities of tokens at positions, at most 0; the product is made where E lies.

        Args:
            h: [N, d] hidden states.
            tokens: [K] int64 ids; None: all that are tokens.
            z: [N] log-partition where it is known, as of a pass; None: it is made.

        Returns:
            [N, K] float64, nats, where h is.
        """
        z = self.log_partition(h) if z is None else z
        rows = (self.tokens if tokens is None else tokens).to(self.E.device)
        logits = wide(h.to(self.E.device)) @ wide(self.E[rows]).T
        if self.b is not None:
            logits = logits + wide(self.b[rows])
        log_p = (logits - z.to(logits.device)[:, None]).clamp(max=0.0)
        return log_p.to(wide_device(h.device))

    @torch.inference_mode()
    def log_mean_p(self, h: Tensor) -> Tensor:
        """[n] float64 log of the average probability of each token over h [N, d], on the CPU."""
        sums = self.sums()
        sums.add(h.to(self.E))
        return self.of_tokens(sums.log_a.cpu())


def _chunk_bytes(E: Tensor) -> float:
    return _CHUNK_BYTES.get(E.device.type, 32e6)


def working_memory(V: int, d: int) -> int:
    """Bytes of a GPU that the sums over a head of V rows and d dimensions take beside the model:
    E in float32, the buffer of logits, and the sums of up to 128 groups of text."""
    return int(4 * V * d + _CHUNK_BYTES["cuda"] + 128 * 8 * V)


class HeadSums:
    """Accumulates over positions, in groups of them: sums of probabilities of all V rows.

    One buffer of chunk x V is filled by a matrix product and reused; every other step is a sweep
    over it. Sums of probabilities run in linear space, in the model's precision within a chunk and
    in float64 beyond; those that come near the smallest float are made again in log space. The mean
    log-probability needs no sweep, since logits are linear in the hidden state.

    On a GPU the product is of half precision with a float32 result where the hidden states and the
    head's weights are both exact in it (`Head.half`), and nothing in `add` waits for the device
    until all chunks are done.
    """

    def __init__(self, head: Head, *, chunk: int = 0) -> None:
        """
        Args:
            head: the whole of it; sums are kept of all rows.
            chunk: positions a matrix product; 0: as many as fit the buffer's size, by 64.
        """
        E = head.E
        self.head, self.E, self.b = head, E, head.b
        fitting = _chunk_bytes(E) / (head.V * E.element_size())
        self.chunk = chunk or 64 * max(1, round(fitting / 64))
        self._buffer = E.new_empty(0)
        self.n = 0
        there = wide_device(E.device)
        self.h_sum = torch.zeros(head.d, dtype=torch.float64, device=there)
        """[d] float64 sum of the hidden states."""
        self._z_sum = torch.zeros((), dtype=torch.float64, device=there)
        self._log_sums: list[Tensor] = []

    def add(self, h: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Adds positions; returns their log-partition [n] float64.

        Args:
            h: [n, d] hidden states, in E's precision or exact in half precision.
            sizes: [G] positions of each group of them, n in all, in the order of h; None: one
                group.
        """
        sizes = [len(h)] if sizes is None else list(sizes)
        ends = list(itertools.accumulate(sizes))
        p_sums = torch.zeros(
            len(sizes), self.head.V, dtype=torch.float64, device=wide_device(h.device)
        )
        zs = []
        for start in range(0, len(h), self.chunk):
            part = h[start : start + self.chunk]
            self.h_sum += wide(part).sum(dim=0)
            weights, mass, z = self._weights(part)
            zs.append(z)
            for group, (size, end) in enumerate(zip(sizes, ends, strict=True)):
                low, high = max(0, end - size - start), min(len(part), end - start)
                if low < high:
                    p_sum = torch.mv(weights[low:high].T, mass[low:high].reciprocal())
                    p_sums[group] += wide(p_sum)
        z = torch.cat(zs)
        self._log_sums.append(self._logs(p_sums, h, z, sizes))
        self._z_sum += z.sum()
        self.n += len(h)
        return z

    def _weights(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """exp(logit - top) [n, V] in the buffer, its row sums [n], and logsumexp [n] float64.

        Where one token has more than half of the probability, its logit is made again in float64.
        So what is left for the others, 1 - p = 1 - exp(logit - z), keeps its digits when the logit
        is: the rounding of the matrix product would shift logit and z apart.
        """
        logits = self._logits(h)
        top = logits.amax(dim=1)
        weights = logits.sub_(top[:, None]).exp_()
        mass = weights.sum(dim=1)
        level = wide(top)
        if h.is_cuda:
            # To find the few positions would make the host wait; to search all of them is cheap.
            exact = self._exact_logits(h, weights.argmax(dim=1))
            level = torch.where(wide(mass) < 2, exact, level)
        else:
            sure = torch.nonzero(mass < 2).flatten()
            exact = self._exact_logits(h[sure], weights[sure].argmax(dim=1))
            level[sure.to(level.device)] = exact
        return weights, mass, level + wide(mass).log()

    def _exact_logits(self, h: Tensor, tokens: Tensor) -> Tensor:
        """[n] float64 logit of one token [n] at each position, h [n, d]."""
        logits: Tensor = torch.linalg.vecdot(wide(h), wide(self.E[tokens]))
        return logits if self.b is None else logits + wide(self.b[tokens])

    def _logits(self, h: Tensor) -> Tensor:
        """[n, V] in the buffer."""
        n, V, half = len(h), self.head.V, self.head.half
        if self._buffer.numel() == 0:
            self._buffer = self.E.new_empty(self.chunk * V)
        buffer = self._buffer[: n * V]
        if not h.is_cuda:
            # With tokens as its rows a CPU makes the product a quarter faster than with positions.
            logits = torch.mm(self.E, h.to(self.E).T, out=buffer.view(V, n)).T
        elif half is not None and half.dtype == h.dtype and _MIXED:
            # Products of two numbers of half precision are exact in float32, and are added up in
            # it: only the order of the sums differs from a float32 product of the same numbers.
            logits = torch.mm(h, half.T, torch.float32, out=buffer.view(n, V))
            logits = logits if self.head.scale == 1.0 else logits.mul_(self.head.scale)
        else:
            logits = torch.mm(h.to(self.E), self.E.T, out=buffer.view(n, V))
        return logits if self.b is None else logits.add_(self.b)

    def _logs(self, p_sums: Tensor, h: Tensor, z: Tensor, sizes: Sequence[int]) -> Tensor:
        """[G, V] log of the sums of probabilities, exact also where they underflow."""
        logs = p_sums.log()
        groups, columns = torch.nonzero(p_sums < _TINY).cpu().T
        parts, levels = h.split(list(sizes)), z.split(list(sizes))
        for group in groups.unique().tolist():
            states = wide(parts[group])
            at_once = max(1, int(_chunk_bytes(self.E) / (8 * max(1, len(states)))))
            for low in columns[groups == group].split(at_once):
                logits = states @ wide(self.E[low]).T
                if self.b is not None:
                    logits += wide(self.b[low])
                logs[group, low] = torch.logsumexp(logits - levels[group][:, None], dim=0)
        return logs

    @property
    def log_sum_groups(self) -> Tensor:
        """[G, V] float64 log of the sum of probabilities in each group, in the order added."""
        return torch.cat(self._log_sums)

    @property
    def log_sum(self) -> Tensor:
        """[V] float64 log of the sum of probabilities."""
        return torch.logsumexp(self.log_sum_groups, dim=0)

    @property
    def log_a(self) -> Tensor:
        """[V] float64 log of the average probability."""
        return self.log_sum - math.log(self.n)

    @property
    def mean_log_p(self) -> Tensor:
        """[V] float64 average log-probability."""
        return self.head.logits_of_mean(self.h_sum / self.n) - self._z_sum / self.n
