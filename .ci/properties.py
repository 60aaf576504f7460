"""Softmax and its loss against PyTorch and 60-digit arithmetic, on random and malicious input.

For each function and dtype: how many cases, and the largest error in units in the last place of
ours and of PyTorch's. Exits with 1 if a case fails, or if ours is worse than PyTorch's and than 2.
"""
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from math import inf, isfinite, prod

import mpmath
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_mb.nll import cross_entropy, nll
from mnist_mb.softmax import log_softmax, logsumexp, softmax

CASES = 20_000
DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
LIMITS = [-17.33, 11.09, -92.88, 88.72, -103.97, 88.72, -745.13, 709.78]  # of exp, by dtype
POOL = [inf, -inf, float('nan'), 0., -0., 1., -1., 0.1, -0.1, 0.6931472, -0.6931472, 20., -20.,
        1e-5, 1e4, -1e4, 65504., -65504., 1e8, -1e8, 1e30, -1e30, 3e38, -3e38, 1e308, -1e308,
        1e-40, 5e-324]
POOL += LIMITS + [v*s for v in LIMITS for s in (0.5, 0.99, 1.01)]
mpmath.mp.dps = 60


# -- input

@st.composite
def numbers(draw, shape, dtype):
    "A tensor: from the pool, Gaussian at some scale and offset, nearly equal, or random bits."
    n = prod(shape)
    kind = draw(st.sampled_from(('pool', 'finite', 'normal', 'normal', 'ties', 'bits')))
    if kind in ('pool', 'finite'):
        pool = [v for v in POOL if kind == 'pool' or isfinite(v)]
        values = torch.tensor(draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n)),
                              dtype=torch.float64)
    else:
        gen = torch.Generator().manual_seed(draw(st.integers(0, 2**40)))
        values = torch.randn(n, generator=gen, dtype=torch.float64)
        if kind == 'normal':
            values = values*draw(st.sampled_from((1e-3, 1, 10, 40, 300)))
            values = values + draw(st.sampled_from((0, 0, 0.3, 1000, -1e4)))
        elif kind == 'ties':
            values = values.round() + draw(st.floats(-100, 100))
        else:
            bits = torch.randint(-2**63, 2**63 - 1, (n,), generator=gen)
            return bits.view(dtype)[:n].view(shape) if n else torch.zeros(shape, dtype=dtype)
    return values.to(dtype).view(shape)


@st.composite
def tensors(draw):
    "A tensor of any shape, dtype and memory layout."
    shape = draw(st.lists(st.sampled_from((0, 1, 2, 3, 3, 5)), max_size=4)
                 .filter(lambda s: prod(s) <= 30))
    x = draw(numbers(shape, draw(st.sampled_from(DTYPES))))
    layout = draw(st.sampled_from(('plain', 'transposed', 'strided', 'expanded')))
    if layout == 'transposed':
        x = x.movedim(tuple(range(x.ndim)), tuple(reversed(range(x.ndim)))).contiguous()
        x = x.movedim(tuple(range(x.ndim)), tuple(reversed(range(x.ndim))))
    elif layout == 'strided' and x.ndim:
        x = torch.stack([x, x], -1).flatten(-2)[..., ::2]
    elif layout == 'expanded' and x.ndim and x.shape[0]:
        x = x[:1].expand_as(x)
    return x


# -- truth

def exact(v):
    return mpmath.mpf(v) if isfinite(v) else v


def units(got, truth, dtype, scale=0):
    "How far `got` is from `truth` (an mpf), in units in the last place of `truth` or `scale`."
    info = torch.finfo(dtype)
    size = max(abs(truth), abs(exact(scale)), mpmath.mpf(info.smallest_normal))
    unit = mpmath.mpf(2)**(mpmath.frexp(size)[1] - 1) * mpmath.mpf(info.eps)
    return float(abs(mpmath.mpf(got) - truth)/unit)


def overflows(truth, dtype):
    info = torch.finfo(dtype)
    return abs(truth) > mpmath.mpf(info.max)*(1 + mpmath.mpf(info.eps)/4)


def log_sum(row):
    "log Σ e^x of a row whose maximum is finite, and the shifted row, in 60 digits."
    top = max(row)
    z = [exact(v) - top if isfinite(v) else -inf for v in row]
    rest = [v for v in z if v != -inf]
    rest.remove(0)  # its exponential is the 1 of log1p
    return mpmath.log1p(mpmath.fsum(map(mpmath.exp, rest))), z


def has_truth(row):
    "Is there a right answer that is not a nan or an infinity?"
    return not any(v != v or v == inf for v in row) and any(v > -inf for v in row)


class Record:
    "The largest errors of ours and PyTorch's by dtype, and what failed."
    def __init__(self):
        self.cases, self.ours, self.theirs = 0, defaultdict(float), defaultdict(float)

    def compare(self, got, other, truth, dtype, scale=0):
        "One number: ours, PyTorch's, and the truth, which may be an infinity."
        if truth in (inf, -inf) or overflows(truth, dtype):
            assert got == other or not isfinite(got), (got, other, truth)
            return
        assert isfinite(got) or got == other, (got, other, truth)  # both may overflow on the way
        if isfinite(got):
            self.ours[dtype] = max(self.ours[dtype], units(got, truth, dtype, scale))
        if isfinite(other):
            self.theirs[dtype] = max(self.theirs[dtype], units(other, truth, dtype, scale))


def same_special(got, other):
    "Nans and infinities stand in the same places."
    assert got.shape == other.shape and got.dtype == other.dtype, (got, other)
    assert torch.equal(got.isnan(), other.isnan()), (got, other)
    assert torch.equal(got.where(got.isinf(), 0.), other.where(other.isinf(), 0.)), (got, other)


def outcome(f, *args, **kw):
    "What `f` returns, or the class of the error that it raises."
    try:
        return f(*args, **kw)
    except (IndexError, RuntimeError, TypeError, ValueError) as e:
        return type(e)


def gradient(f, x, g, *args):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(f(x, *args), x, g)[0]


# -- properties

def elementwise(ours, theirs, log):
    "softmax or log_softmax: values, specials, gradients, errors."
    @given(st.data())
    def check(data):
        x = data.draw(tensors())
        dim = data.draw(st.integers(-max(1, x.ndim) - (x.ndim > 2), max(1, x.ndim) - 1))
        record.cases += 1
        got, other = outcome(ours, x, dim), outcome(theirs, x, dim)
        if isinstance(other, type):
            assert got is other, (got, other)
            return
        rows, gots, others = ((t if x.ndim else t[None]).movedim(dim, -1) for t in (x, got, other))
        size = rows.shape[-1]
        assert got.shape == x.shape and got.dtype == x.dtype
        if not x.numel():
            return
        rows, gots, others = (t.reshape(-1, size) for t in (rows, gots, others))
        good = torch.tensor([has_truth(row) for row in rows.tolist()])
        same_special(gots[~good], others[~good])
        for row, mine, yours in zip(*(t[good].tolist() for t in (rows, gots, others))):
            total, z = log_sum(row)
            for v, a, b in zip(z, mine, yours):
                truth = (-inf if v == -inf else v - total)
                if not log:
                    truth = mpmath.exp(truth) if truth != -inf else mpmath.mpf(0)
                record.compare(a, b, truth, x.dtype)
        g = torch.linspace(-1, 2, x.numel(), dtype=torch.float64).view(x.shape).to(x.dtype)
        mine = gradient(ours, x, g, dim)
        yours = gradient(theirs, x.double(), g.double(), dim)
        rows = [(t if x.ndim else t[None]).movedim(dim, -1).reshape(-1, size)[good].double()
                for t in (mine, yours)]
        torch.testing.assert_close(*rows, rtol=0, atol=32*size*torch.finfo(x.dtype).eps)
    record = Record()
    return check, record


def reduction():
    "logsumexp: also several dims, keepdim, and the gradient, which is the softmax."
    @given(st.data())
    def check(data):
        x = data.draw(tensors())
        one = st.integers(-max(1, x.ndim) - (x.ndim > 2), max(1, x.ndim) - 1)
        dim = data.draw(st.one_of(one, st.lists(one, min_size=1, max_size=3).map(tuple)))
        keepdim = data.draw(st.booleans())
        record.cases += 1
        got, other = (outcome(f, x, dim, keepdim) for f in (logsumexp, torch.logsumexp))
        if isinstance(other, type):
            assert got is other, (got, other)
            return
        assert got.shape == other.shape and got.dtype == other.dtype
        dims = dim if isinstance(dim, tuple) else (dim,)
        rows = x if x.ndim else x[None]
        rows = rows.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
        size = rows.shape[-1]
        if not x.numel():
            torch.testing.assert_close(got, other, rtol=0, atol=0)
            return
        rows, gots, others = rows.reshape(-1, size), got.flatten(), other.flatten()
        good = torch.tensor([has_truth(row) for row in rows.tolist()])
        same_special(gots[~good], others[~good])
        for row, a, b in zip(rows[good].tolist(), gots[good].tolist(), others[good].tolist()):
            record.compare(a, b, log_sum(row)[0] + max(row), x.dtype, scale=max(row))
        mine = gradient(lambda z: logsumexp(z, dim), x, torch.ones_like(logsumexp(x, dim)))
        mine = (mine if x.ndim else mine[None]).movedim(dims, tuple(range(-len(dims), 0)))
        mine = mine.flatten(-len(dims)).reshape(-1, size)[good].double()
        yours = torch.softmax(rows[good].double(), -1)
        torch.testing.assert_close(mine, yours, rtol=0, atol=4*torch.finfo(x.dtype).eps)
    record = Record()
    return check, record


def picked():
    "nll: the mean of numbers that are or are not log-probabilities; targets right and wrong."
    @given(st.data())
    def check(data):
        n, c = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
        dtype = data.draw(st.sampled_from(DTYPES))
        x = data.draw(numbers((n, c), dtype))
        target = torch.tensor(data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)))
        spot, wrong_number = data.draw(st.integers(0, n - 1)), data.draw(
            st.sampled_from((-1, -100, c, c + 7)))
        record.cases += 1
        sums = x.double().exp().sum(1)
        bad = not ((sums - 1).abs() < 0.1).all()
        if bad:
            assert outcome(nll, x, target) is ValueError, x
        spoilt = target.clone()
        spoilt[spot] = wrong_number
        real = torch.log_softmax(x.nan_to_num(0., 1., -1.).double(), 1).to(dtype)
        assert outcome(nll, real, spoilt) is IndexError
        for wrong, error in ((target[:, None], ValueError), (target.to(dtype), TypeError),
                             (target[1:], ValueError), (F.one_hot(target, c), ValueError)):
            assert outcome(nll, real, wrong) is error, (real, wrong)
        for log_probs, kw in ((real, {}), (x, dict(check=False))):
            got, other = nll(log_probs, target, **kw), F.nll_loss(log_probs, target)
            assert got.shape == () and got.dtype == dtype
            values = log_probs[range(n), target].tolist()
            finite = [abs(v) for v in values if isfinite(v)]
            if sum(finite) > torch.finfo(torch.promote_types(dtype, torch.float32)).max/2:
                continue  # whether the sum overflows on the way depends on its order
            if len(finite) < n:  # in float64, since PyTorch's float16 sum can overflow
                same_special(got, F.nll_loss(log_probs.double(), target).to(dtype))
                continue
            scale = max(map(abs, values))
            truth = -mpmath.fsum(map(exact, values))/n
            record.compare(got.item(), other.item(), truth, dtype, scale)
            mine, yours = (gradient(lambda z: f(z, target), log_probs, None) for f in (
                lambda z, t: nll(z, t, check=False), F.nll_loss))
            torch.testing.assert_close(mine, yours, rtol=torch.finfo(dtype).eps, atol=0)
    record = Record()
    return check, record


@st.composite
def questions(draw):
    "Logits, targets and options for cross_entropy, and what PyTorch calls them."
    n, c = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(DTYPES))
    x = draw(numbers((n, c), dtype))
    gen = torch.Generator().manual_seed(draw(st.integers(0, 2**40)))
    kw = dict(reduction=draw(st.sampled_from(('mean', 'sum', 'none'))),
              label_smoothing=draw(st.sampled_from((0., 0., 0.1, 0.9))))
    if draw(st.booleans()):
        kw['weight'] = (torch.rand(c, generator=gen)*4 + 0.1).to(dtype)
    if draw(st.integers(0, 2)):
        target = torch.randint(c, (n,), generator=gen)
        if draw(st.booleans()):
            kw['ignore_index'] = draw(st.sampled_from((-100, -1, 0)))
            target[1:].masked_fill_(torch.rand(n - 1, generator=gen) < 0.3, kw['ignore_index'])
            target[0] = c - 1
    else:
        target = (3*torch.randn(n, c, generator=gen, dtype=torch.float64)).softmax(1).to(dtype)
    return x, target, kw


def true_losses(x, target, weight=None, ignore_index=None, label_smoothing=0., **_):
    "The loss of each row in 60 digits, and how much it counts; None where nothing is true."
    n, c = x.shape
    w = [1]*c if weight is None else [exact(v) for v in weight.tolist()]
    eps = exact(label_smoothing)
    for row, t in zip(x.tolist(), target.tolist()):
        if t == ignore_index:
            yield mpmath.mpf(0), 0
            continue
        q = [exact(v) for v in t] if isinstance(t, list) else [int(j == t) for j in range(c)]
        q = [(1 - eps)*v + eps/c for v in q]
        if not has_truth(row) or any(v == -inf and qj for v, qj in zip(row, q)):
            yield None, 0
            continue
        total, z = log_sum(row)
        loss = mpmath.fsum(wj*qj*(total - zj) for wj, qj, zj in zip(w, q, z) if qj)
        yield loss, 1 if isinstance(t, list) else w[t]


def losses():
    "cross_entropy with all its options: values, specials, gradients."
    @given(questions())
    def check(question):
        record.cases += 1
        x, target, kw = question
        dtype = x.dtype
        if kw.get('ignore_index') is not None and (target == kw['ignore_index']).all():
            if kw['reduction'] == 'mean':
                assert outcome(cross_entropy, x, target, **kw) is ValueError
            return
        got, other = cross_entropy(x, target, **kw), F.cross_entropy(x, target, **kw)
        assert got.shape == other.shape and got.dtype == dtype
        truths = list(true_losses(x, target, **kw))
        whole = kw['reduction'] != 'none'
        wide = dict(kw, weight=kw['weight'].double()) if 'weight' in kw else kw
        soft = target.double() if target.is_floating_point() else target
        if any(loss is None for loss, _ in truths):
            largest = x.where(x.isfinite(), 0.).abs().max()
            if largest < torch.finfo(dtype).max/100:  # else PyTorch's sums may overflow
                same_special(got, F.cross_entropy(x.double(), soft, **wide).to(dtype))
            return
        if whole:
            total = mpmath.fsum(loss for loss, _ in truths)
            if kw['reduction'] == 'mean':
                total /= mpmath.fsum(count for _, count in truths)
            truths = [(total, 1)]
        for a, b, (truth, _) in zip(got.view(-1).tolist(), other.view(-1).tolist(), truths):
            record.compare(a, b, truth, dtype)
        g = torch.ones_like(got)
        mine = gradient(lambda z: cross_entropy(z, target, **kw), x, g)
        yours = gradient(lambda z: F.cross_entropy(z, soft, **wide), x.double(), g.double())
        if 'ignore_index' in kw:  # ours are 0, where PyTorch's can be nan
            yours[target == kw['ignore_index']] = 0.
        torch.testing.assert_close(mine.double(), yours, rtol=0, atol=64*torch.finfo(dtype).eps)
    record = Record()
    return check, record


PROPERTIES = {'softmax': lambda: elementwise(softmax, torch.softmax, log=False),
              'log_softmax': lambda: elementwise(log_softmax, torch.log_softmax, log=True),
              'logsumexp': reduction, 'nll': picked, 'cross_entropy': losses}


def run(name):
    torch.set_num_threads(1)
    check, record = PROPERTIES[name]()
    settings(max_examples=CASES, derandomize=True, database=None, deadline=None,
             suppress_health_check=list(HealthCheck))(check)()
    return name, record.cases, dict(record.ours), dict(record.theirs)


def main():
    names, ok = sys.argv[1:] or list(PROPERTIES), True
    print('function       dtype      cases  largest error, units in the last place: ours, PyTorch')
    with ProcessPoolExecutor(2) as pool:
        for name, cases, ours, theirs in pool.map(run, names):
            for dtype in DTYPES:
                fine = ours[dtype] <= max(2, theirs[dtype]) and cases >= CASES
                ok &= fine
                print(f'{name:14} {str(dtype)[6:]:8} {cases:7,} {ours[dtype]:14,.2f} '
                      f'{theirs[dtype]:20,.2f}{"" if fine else "  WORSE"}', flush=True)
    sys.exit(not ok)


if __name__ == '__main__':
    main()
