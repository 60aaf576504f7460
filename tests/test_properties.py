"""softmax, logsumexp, log_softmax, nll, cross_entropy and the precise forms: against PyTorch,
against 60-digit arithmetic on random and malicious input, under every transform of PyTorch's."""
from functools import partial
from itertools import product
from math import inf, isfinite, log, nan, prod

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.func import grad, jacfwd, jacrev, vmap
from torch.testing import assert_close

from mnist_mb.nll import cross_entropy, nll
from mnist_mb.precision import precise_log_softmax, precise_logsumexp, precise_softmax
from mnist_mb.softmax import log_softmax, logsumexp, softmax

HALVES, WIDE = (torch.float16, torch.bfloat16), (torch.float32, torch.float64)
LIMITS = [-17.33, 11.09, -92.88, 88.72, -103.97, 88.72, -745.13, 709.78]  # of exp, by dtype
POOL = [inf, -inf, nan, 0., -0., 1., -1., 0.1, -0.1, 0.6931472, -0.6931472, 20., -20., 1e-5,
        1e4, -1e4, 65504., -65504., 1e8, -1e8, 1e30, -1e30, 3e38, -3e38, 1e308, -1e308, 1e-40,
        5e-324, *LIMITS, *(v*s for v in LIMITS for s in (0.5, 0.99, 1.01))]
PLAIN = {'softmax': (softmax, torch.softmax), 'log_softmax': (log_softmax, torch.log_softmax),
         'logsumexp': (logsumexp, torch.logsumexp)}
PRECISE = {'softmax': precise_softmax, 'log_softmax': precise_log_softmax,
           'logsumexp': precise_logsumexp}
few = settings(max_examples=300, derandomize=True, database=None, deadline=None,
               suppress_health_check=list(HealthCheck))
plain = pytest.mark.parametrize('name', PLAIN)
every_dtype = pytest.mark.parametrize('dtype', HALVES + WIDE, ids=lambda d: str(d)[6:])
wide_dtype = pytest.mark.parametrize('dtype', WIDE, ids=lambda d: str(d)[6:])
mpmath.mp.dps = 60


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
            return bits.view(dtype)[:n].view(shape)
    return values.to(dtype).view(shape)


def gradient(f, x):
    x = x.detach().clone().requires_grad_()
    out = f(x)
    return torch.autograd.grad(out, x, torch.ones_like(out))[0]


# -- truth in 60 digits

def exact(v):
    return mpmath.mpf(v) if isfinite(v) else v


def has_truth(row):
    "Is there a right answer that is not a nan or an infinity?"
    return all(v < inf for v in row) and any(v > -inf for v in row)


def log_sum(row):
    "log Σ e^x of a row whose maximum is finite, and the shifted row."
    top = max(row)
    z = [exact(v) - exact(top) if isfinite(v) else -inf for v in row]
    rest = [v for v in z if v != -inf]
    rest.remove(0)  # its exponential is the 1 of log1p
    return mpmath.log1p(mpmath.fsum(map(mpmath.exp, rest))), z


def true_values(name, row):
    total, z = log_sum(row)
    if name == 'logsumexp':
        return [total + exact(max(row))]
    logs = [v - total if v != -inf else v for v in z]
    return logs if name == 'log_softmax' else [
        mpmath.exp(v) if v != -inf else mpmath.mpf(0) for v in logs]


def units(got, truth, dtype, scale=0):
    "How far `got` is from `truth`, in units in the last place of `truth` or `scale`."
    info = torch.finfo(dtype)
    size = max(abs(truth), abs(exact(scale)), mpmath.mpf(info.smallest_normal))
    unit = mpmath.mpf(2)**(mpmath.frexp(size)[1] - 1) * mpmath.mpf(info.eps)
    return float(abs(mpmath.mpf(got) - truth)/unit)


def near_overflow(v, dtype):
    return abs(v) > torch.finfo(dtype).max/4


# -- softmax, log_softmax, logsumexp

@plain
def test_as_torch_for_any_shape_and_dim(name):
    "Shape, dtype, nans, infinities and, within rounding, the values; the input stays as it is."
    ours, theirs = PLAIN[name]

    @few
    @given(st.data())
    def check(data):
        shape = data.draw(st.lists(st.sampled_from((1, 2, 3, 5)), max_size=3))
        x = data.draw(numbers(shape, data.draw(st.sampled_from(WIDE))))
        dim = data.draw(st.integers(-max(1, x.ndim), max(1, x.ndim) - 1))
        eps, kept = torch.finfo(x.dtype).eps, x.clone()
        assert_close(ours(x, dim), theirs(x, dim), rtol=128*eps, atol=16*eps, equal_nan=True)
        assert_close(ours(x), theirs(x, -1), rtol=128*eps, atol=16*eps, equal_nan=True)
        assert_close(x, kept, rtol=0, atol=0, equal_nan=True)
    check()


@plain
@wide_dtype
def test_rows_with_infinities_and_nans(name, dtype):
    "Values and gradients; the gradient of a sum that is infinite is nobody's."
    ours, theirs = (partial(f, dim=0) for f in PLAIN[name])
    for row in product([inf, -inf, nan, 0., 100., -1e4], repeat=3):
        x = torch.tensor(row, dtype=dtype)
        assert_close(ours(x), theirs(x), equal_nan=True)
        if inf not in row:
            assert_close(gradient(ours, x), gradient(theirs, x), rtol=1e-2, atol=1e-2,
                         equal_nan=True)


@plain
@wide_dtype
def test_near_the_truth(name, dtype):
    "Within rounding of 60 digits."
    eps = torch.finfo(dtype).eps

    @few
    @given(st.data())
    def check(data):
        row = data.draw(numbers((data.draw(st.integers(1, 5)),), dtype))
        values = row.tolist()
        if not has_truth(values) or any(near_overflow(v, dtype) for v in values if v > -inf):
            return
        spread = max(values) - min(v for v in values if v > -inf)
        for mine, truth in zip(PLAIN[name][0](row).reshape(-1).tolist(), true_values(name, values)):
            if truth == -inf:
                assert mine == -inf
                continue
            if name == 'softmax':  # the exponent's rounding is magnified
                bound = eps*(8 + min(spread, 800.))*truth + torch.finfo(dtype).smallest_normal
            else:  # absolutely, as the sum is near 1 where a class leads
                size = max(abs(truth), abs(exact(max(values))) if name == 'logsumexp' else 0)
                bound = eps*size + 8*eps
            assert abs(mpmath.mpf(mine) - truth) <= bound, (row, mine, truth)
    check()


@pytest.mark.parametrize('v', (89, -103, -104, 1e4, 1e6, 1e8, 1e30))
def test_equal_logits(v):
    x = torch.full((2,), float(v))
    assert_close(log_softmax(x), torch.full((2,), log(0.5)), rtol=2e-7, atol=0)
    assert torch.equal(softmax(x), torch.full((2,), 0.5))
    assert_close(gradient(logsumexp, x), torch.full((2,), 0.5))


@plain
@pytest.mark.parametrize('dtype', HALVES, ids=lambda d: str(d)[6:])
def test_half_precision_is_at_most_a_factor_of_two_behind(name, dtype):
    "On average; chapter 10 has the forms that are not behind."
    x = torch.randn(20_000, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    for scale in (1, 10, 50):
        truth = PLAIN[name][1](scale*x.double(), 1)
        mine, yours = ((f(scale*x, 1).double() - truth).abs().mean() for f in PLAIN[name])
        assert mine <= 2*yours


# -- nll and cross_entropy

@st.composite
def questions(draw):
    "Logits, (n, c), and targets, (n,)."
    n, c = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    target = draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n))
    return draw(numbers((n, c), draw(st.sampled_from(WIDE)))), torch.tensor(target)


@few
@given(questions())
def test_nll_and_cross_entropy(question):
    "As PyTorch's where there are infinities and nans; else within rounding of 60 digits."
    logits, target = question
    dtype, eps = logits.dtype, torch.finfo(logits.dtype).eps
    if any(near_overflow(v, dtype) for v in logits.flatten().tolist() if isfinite(v)):
        return
    log_probs = torch.log_softmax(logits, 1)
    assert_close(nll(log_probs, target), F.nll_loss(log_probs, target), equal_nan=True)
    got, theirs = cross_entropy(logits, target), F.cross_entropy(logits, target)
    assert (got.shape, got.dtype) == ((), dtype)
    assert_close(got, theirs, rtol=64*eps, atol=16*eps, equal_nan=True)
    if not logits.isfinite().all():
        return
    losses = [-true_values('log_softmax', row)[y]
              for row, y in zip(logits.tolist(), target.tolist())]
    truth = mpmath.fsum(losses)/len(losses)
    assert abs(mpmath.mpf(got.item()) - truth) <= 8*eps*(truth + 8)
    assert_close(gradient(partial(cross_entropy, target=target), logits),
                 gradient(partial(F.cross_entropy, target=target), logits), rtol=0, atol=64*eps)


def test_nll_is_minus_the_mean_of_what_is_picked():
    log_probs, target = torch.arange(12.).reshape(3, 4), torch.tensor([3, 0, 2])
    assert nll(log_probs, target) == -(3 + 4 + 10)/3
    assert gradient(partial(nll, target=target), log_probs).tolist() == [
        [0, 0, 0, pytest.approx(-1/3)], [pytest.approx(-1/3), 0, 0, 0],
        [0, 0, pytest.approx(-1/3), 0]]


@pytest.mark.parametrize('target', ([0, 1, 4], [0, 1, -1], [0, 1, -100], [0, 1, 2, 3],
                                    [[0], [1], [2]], [0., 1., 2.]))
def test_targets_that_gather_refuses(target):
    "No class number is below 0, counted from the end, or left out."
    for f in (nll, cross_entropy):
        with pytest.raises(RuntimeError):
            f(torch.zeros(3, 4), torch.tensor(target))


# -- what PyTorch does to functions: every order of derivatives, vmap, compile, autocast

TARGET = torch.tensor([3, 0, 1])
X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
RIVALS = {name: (partial(o, dim=-1), partial(t, dim=-1)) for name, (o, t) in PLAIN.items()}
RIVALS |= {f'precise {name}': (partial(f, dim=-1), RIVALS[name][1]) for name, f in PRECISE.items()}
RIVALS['cross_entropy'] = tuple(partial(f, target=TARGET) for f in (cross_entropy, F.cross_entropy))
RIVALS['nll'] = (lambda x: nll(log_softmax(x), TARGET),
                 lambda x: F.nll_loss(torch.log_softmax(x, -1), TARGET))
rivals = pytest.mark.parametrize('name', RIVALS)


@rivals
@pytest.mark.parametrize('order', [o for n in (1, 2, 3) for o in product('fr', repeat=n)],
                         ids=''.join)
def test_derivatives_of_every_order(name, order):
    "f is forward mode, r reverse mode, the innermost first."
    def derived(f):
        def g(x):
            return f(x).square().sum() + f(x).sum()
        for mode in order:
            g = {'f': jacfwd, 'r': jacrev}[mode](g)
        return g(X)
    ours, theirs = RIVALS[name]
    assert derived(ours).abs().max() > 1e-4
    assert_close(derived(ours), derived(theirs), rtol=1e-9, atol=1e-12)


@rivals
def test_gradcheck(name):
    f, x = RIVALS[name][0], X.clone().requires_grad_()
    assert torch.autograd.gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, x)


def test_vmap_gives_each_row_its_gradient():
    def per_row(f):
        return vmap(grad(lambda x, y: f(x[None], y[None])))(X, TARGET)
    assert_close(per_row(cross_entropy), per_row(F.cross_entropy))


@pytest.mark.slow
@rivals
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    f = RIVALS[name][0]
    compiled = torch.compile(lambda x: f(x), fullgraph=True, backend='eager')
    assert_close(compiled(X), f(X))
    assert_close(gradient(compiled, X), gradient(f, X))


def test_autocast_is_taken():
    "Values near those without it, within what bfloat16 holds."
    for name, (ours, _) in RIVALS.items():
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = ours(X.bfloat16())
        assert_close(got.double(), ours(X), rtol=0, atol=0.05)


# -- the precise forms

@pytest.mark.slow
@pytest.mark.parametrize('name', PRECISE)
@every_dtype
def test_precise_to_the_last_digit(name, dtype):
    "A few units in the last place at most, where PyTorch's log-softmax loses all digits."
    worst = {'ours': 0., 'theirs': 0.}

    @settings(few, max_examples=200)
    @given(st.data())
    def check(data):
        row = data.draw(numbers((data.draw(st.integers(1, 5)),), dtype))
        got, other = PRECISE[name](row, -1), PLAIN[name][1](row, -1)
        assert got.shape == other.shape and got.dtype == dtype
        if not has_truth(row.tolist()):
            assert_close(got, other, equal_nan=True)
            return
        scale = max(row.tolist()) if name == 'logsumexp' else 0
        pairs = zip(got.view(-1).tolist(), other.view(-1).tolist(), true_values(name, row.tolist()))
        for mine, yours, truth in pairs:
            if truth == -inf or near_overflow(truth, dtype):
                continue
            assert isfinite(mine), (row, mine, truth)
            worst['ours'] = max(worst['ours'], units(mine, truth, dtype, scale))
            if isfinite(yours):
                worst['theirs'] = max(worst['theirs'], units(yours, truth, dtype, scale))
    check()
    assert worst['ours'] < 8
    if name == 'log_softmax' and torch.finfo(dtype).bits > 16:
        assert worst['ours'] < 1e-2*worst['theirs']


@pytest.mark.parametrize('d', (5, 10, 15, 20, 50, 80))
def test_a_leader_has_digits(d):
    truth = mpmath.log1p(mpmath.exp(-d))
    lead = torch.tensor([float(d), 0.])
    assert abs(-precise_log_softmax(lead)[0].item()/truth - 1) < 3e-7
    assert abs(precise_logsumexp(lead - d).item()/truth - 1) < 3e-7


@pytest.mark.parametrize('f', PRECISE.values(), ids=PRECISE)
def test_precise_refuses_whole_numbers(f):
    with pytest.raises(TypeError, match=r'x.float\(\)'):
        f(torch.tensor([1, 2]))
