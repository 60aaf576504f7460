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
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from mnist_mb.nll import cross_entropy, nll
from mnist_mb.precision import precise_log_softmax, precise_logsumexp, precise_softmax
from mnist_mb.softmax import log_softmax, logsumexp, softmax

DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
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
every_dtype = pytest.mark.parametrize('dtype', DTYPES, ids=lambda d: str(d)[6:])
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


def outcome(f, *args, **kw):
    "What `f` returns, or the class of the error that it raises."
    try:
        return f(*args, **kw)
    except (IndexError, RuntimeError, TypeError, ValueError) as e:
        return type(e)


def gradient(f, x, g=None):
    x = x.detach().clone().requires_grad_()
    out = f(x)
    return torch.autograd.grad(out, x, torch.ones_like(out) if g is None else g)[0]


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
def test_as_torch_everywhere(name):
    "Shape, dtype, errors, nans, infinities and, within rounding, the values."
    ours, theirs = PLAIN[name]

    @few
    @given(st.data())
    def check(data):
        x = data.draw(tensors())
        one = st.integers(-max(1, x.ndim) - (x.ndim > 2), max(1, x.ndim) - 1)
        dim, kw = data.draw(one), {}
        if name == 'logsumexp':
            dim = data.draw(st.one_of(st.just(dim), st.lists(one, min_size=1, max_size=3)))
            kw = {'keepdim': data.draw(st.booleans())}
        got, other = outcome(ours, x, dim, **kw), outcome(theirs, x, dim, **kw)
        if isinstance(other, type):
            assert got is other
            return
        eps = torch.finfo(x.dtype).eps
        assert_close(got, other, rtol=128*eps, atol=16*eps, equal_nan=True)
    check()


@plain
@every_dtype
def test_odd_rows(name, dtype):
    "Values and gradients where there are infinities or nans."
    ours, theirs = PLAIN[name]
    for row in product([inf, -inf, nan, 0., 100., -1e4], repeat=3):
        x = torch.tensor(row, dtype=dtype)
        assert_close(ours(x, 0), theirs(x, 0), equal_nan=True)
        mine, yours = (gradient(partial(f, dim=0), x) for f in (ours, theirs))
        if name == 'logsumexp' and has_truth(row):  # PyTorch's has lost digits at -1e4
            yours = torch.softmax(x.double(), 0).to(dtype)
        assert_close(mine, yours, rtol=1e-2, atol=1e-2, equal_nan=True)


@plain
@every_dtype
def test_near_the_truth(name, dtype):
    "Within rounding of 60 digits: half-width results are rounded once."
    eps = torch.finfo(dtype).eps

    @few
    @given(st.data())
    def check(data):
        row = data.draw(numbers((data.draw(st.integers(1, 5)),), dtype))
        if not has_truth(row.tolist()) or any(near_overflow(v, dtype) for v in row if v > -inf):
            return
        got = PLAIN[name][0](row, -1).reshape(-1).tolist()
        spread = max(row.tolist()) - min(v for v in row.tolist() if v > -inf)
        for mine, truth in zip(got, true_values(name, row.tolist())):
            if truth == -inf:
                assert mine == -inf
                continue
            size = max(abs(truth), abs(exact(max(row.tolist()))) if name == 'logsumexp' else 0)
            narrow = torch.finfo(dtype).bits == 16
            if name == 'softmax':  # the exponent's rounding is magnified
                rel = eps if narrow else eps*(8 + min(spread, 800.))
                bound = rel*size + torch.finfo(dtype).smallest_normal
            else:  # absolutely, as the sum is near 1 where a class leads
                bound = eps*size + (1e-6 if narrow else 8*eps)
            assert abs(mpmath.mpf(mine) - truth) <= bound, (row, mine, truth)
    check()


@pytest.mark.parametrize('v', (89, -103, -104, 1e4, 1e6, 1e8, 1e30))
def test_equal_logits(v):
    x = torch.full((2,), float(v))
    assert_close(log_softmax(x), torch.full((2,), log(0.5)), rtol=2e-7, atol=0)
    assert torch.equal(softmax(x), torch.full((2,), 0.5))
    assert_close(gradient(logsumexp, x), torch.full((2,), 0.5))


def test_many_classes_in_float16():
    x = torch.zeros(100_000, dtype=torch.float16)
    assert_close(logsumexp(x), torch.tensor(log(100_000)).half())
    assert_close(log_softmax(x)[0], torch.tensor(-log(100_000)).half())


def test_dims_of_logsumexp():
    x = torch.randn(2, 3, 4)
    assert_close(logsumexp(x, ()), torch.logsumexp(x.flatten(), 0))
    assert logsumexp(x, (), keepdim=True).shape == (1, 1, 1)
    for whole in (torch.tensor([[1, 2], [3, 4]]), torch.tensor([[True, False]])):
        assert_close(logsumexp(whole), torch.logsumexp(whole, -1))


@pytest.mark.parametrize('f', (softmax, log_softmax))
def test_refusals(f):
    for bad in (torch.ones(3).long(), torch.ones(3).bool(), torch.ones(3).cfloat(), [1., 2.]):
        with pytest.raises(TypeError, match=r'pass torch.as_tensor\(x\).float\(\)'):
            f(bad)
    for dim in (None, (0, 1), [0]):
        with pytest.raises(TypeError, match='dim is'):
            f(torch.ones(2, 3), dim)
    with pytest.raises(TypeError, match='complex64'):
        logsumexp(torch.ones(3).cfloat())


# -- what PyTorch does to functions: every order of derivatives, vmap, compile, autocast

TARGET = torch.tensor([3, 0, 1])
Q = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(1)
W = torch.tensor([1., 2., 3., 4.], dtype=torch.float64)
OPTIONS = {'plain': {}, 'weight': dict(weight=W), 'ignore': dict(ignore_index=3),
           'smooth': dict(label_smoothing=0.1), 'sum': dict(reduction='sum'),
           'none': dict(reduction='none')}
RIVALS = {name: (partial(o, dim=-1), partial(t, dim=-1)) for name, (o, t) in PLAIN.items()}
RIVALS |= {f'precise {name}': (partial(f, dim=-1), RIVALS[name][1]) for name, f in PRECISE.items()}
RIVALS |= {f'cross_entropy {name}': (partial(cross_entropy, target=TARGET, check=False, **kw),
                                     partial(F.cross_entropy, target=TARGET, **kw))
           for name, kw in OPTIONS.items()}
RIVALS['cross_entropy soft'] = (partial(cross_entropy, target=Q, check=False),
                                partial(F.cross_entropy, target=Q))
RIVALS['nll'] = (lambda x: nll(log_softmax(x), TARGET, check=False),
                 lambda x: F.nll_loss(torch.log_softmax(x, -1), TARGET))
rivals = pytest.mark.parametrize('name', RIVALS)
X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


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
        return g(X[:, :4])
    ours, theirs = RIVALS[name]
    assert derived(ours).abs().max() > 1e-4
    # PyTorch's logsumexp is as right as ours here: values are moderate
    assert_close(derived(ours), derived(theirs), rtol=1e-9, atol=1e-12)


@rivals
def test_reverse_over_forward(name):
    v = X.flip(0)

    def slope(f):
        return grad(lambda x: jvp(lambda u: f(u).sin().sum(), (x,), (v,))[1])(X)
    assert_close(*map(slope, RIVALS[name]))


@rivals
def test_gradcheck(name):
    f, x = RIVALS[name][0], X.clone().requires_grad_()
    assert torch.autograd.gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, x)


@pytest.mark.parametrize('kw', OPTIONS.values(), ids=OPTIONS)
def test_vmap_over_rows_and_targets(kw):
    "A gradient for each example; class numbers under vmap; vjp under vmap."
    targets = torch.tensor([2, 0, 1])
    rivals = partial(cross_entropy, check=False), F.cross_entropy

    def per_row(f):
        return vmap(grad(lambda x, t: f(x[None], t[None], **kw).sum()))(X, targets)

    def pulled(f):
        def one(t):
            out, back = vjp(lambda x: f(x, t, **kw), X)
            return back(torch.ones_like(out))[0]
        return one
    both = torch.stack([targets, targets.flip(0)])
    assert_close(*map(per_row, rivals))
    ours, theirs = map(pulled, rivals)  # PyTorch's can't be smoothed under vmap: one by one
    assert_close(vmap(ours)(both), torch.stack([theirs(t) for t in both]))


@pytest.mark.slow
@pytest.mark.parametrize('backend', ('eager', 'aot_eager'))
@rivals
def test_compiles_as_one_graph(name, backend):
    torch._dynamo.reset()
    f = RIVALS[name][0]
    compiled = torch.compile(lambda x: f(x), fullgraph=True, backend=backend)
    assert_close(compiled(X), f(X))
    assert_close(gradient(compiled, X), gradient(f, X))


def test_autocast_leaves_float32():
    x, t = torch.randn(8, 10, generator=torch.Generator().manual_seed(2)), torch.arange(8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss, theirs = cross_entropy(x.bfloat16(), t), F.cross_entropy(x.bfloat16(), t)
        assert softmax(x.bfloat16()).dtype == logsumexp(x.bfloat16()).dtype == torch.float32
        assert nll(log_softmax(x.bfloat16()), t).dtype == torch.float32
    assert loss.dtype == theirs.dtype == torch.float32
    assert_close(loss, theirs)
    assert cross_entropy(x.bfloat16(), t).dtype == torch.bfloat16


def test_meta_tensors_have_shapes():
    x = torch.empty(3, 4, device='meta')
    assert softmax(x).shape == log_softmax(x).shape == (3, 4) and logsumexp(x).shape == (3,)


# -- nll

@few
@given(st.data())
def test_nll(data):
    "The mean of numbers that are or are not log-probabilities; targets right and wrong."
    n, c = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    dtype = data.draw(st.sampled_from(DTYPES))
    x = data.draw(numbers((n, c), dtype))
    target = torch.tensor(data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)))
    if not ((x.double().exp().sum(1) - 1).abs() < 0.1).all():
        assert outcome(nll, x, target) is ValueError
    real = torch.log_softmax(x.nan_to_num(0., 1., -1.).double(), 1).to(dtype)
    spoilt = target.clone()
    spoilt[data.draw(st.integers(0, n - 1))] = data.draw(st.sampled_from((-1, -100, c, c + 7)))
    assert outcome(nll, real, spoilt) is IndexError
    got = nll(real, target)
    assert got.shape == () and got.dtype == dtype
    values = real[range(n), target].tolist()
    if all(map(isfinite, values)):
        truth = -mpmath.fsum(map(exact, values))/n
        if not near_overflow(max(map(abs, values))*n, dtype):
            assert units(got.item(), truth, dtype, max(map(abs, values))) <= 2
            assert_close(gradient(partial(nll, target=target), real),
                         gradient(partial(F.nll_loss, target=target), real),
                         rtol=torch.finfo(dtype).eps, atol=0)


@every_dtype
def test_nll_of_many_rows(dtype):
    "The sum of 50,000 losses is beyond float16, their mean is not."
    x = torch.randn(50, 10, generator=torch.Generator().manual_seed(3)).to(dtype)
    lp, t = log_softmax(x).repeat(1000, 1), torch.arange(50).repeat(1000) % 10
    assert_close(nll(lp, t), nll(lp[:50], t[:50]), rtol=4*torch.finfo(dtype).eps, atol=0)
    for kind in (torch.int32, torch.int16, torch.int8, torch.uint8):
        assert torch.equal(nll(lp, t.to(kind)), nll(lp, t))


# -- cross_entropy

@st.composite
def questions(draw):
    "Logits, targets and options for cross_entropy."
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
    c = x.shape[1]
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


@settings(few, max_examples=500)
@given(questions())
def test_cross_entropy(question):
    "All options: values near the truth, specials as torch's, gradients."
    x, target, kw = question
    dtype, eps = x.dtype, torch.finfo(x.dtype).eps
    ignore = kw.get('ignore_index')
    if ignore is not None and (target == ignore).all():
        if kw['reduction'] == 'mean':
            assert outcome(cross_entropy, x, target, **kw) is ValueError
        return
    got = cross_entropy(x, target, **kw)
    assert got.dtype == dtype and got.shape == F.cross_entropy(x, target, **kw).shape
    wide = dict(kw, weight=kw['weight'].double()) if 'weight' in kw else kw
    soft = target.double() if target.is_floating_point() else target
    if any(near_overflow(v*100, dtype) for v in x.flatten().tolist() if isfinite(v)):
        return  # whether a sum overflows on the way depends on its order
    truths = list(true_losses(x, target, **kw))
    if any(loss is None for loss, _ in truths):
        theirs = F.cross_entropy(x.double(), soft, **wide).to(dtype)
        zero_times_inf = theirs.isnan() & ~got.isnan()  # PyTorch has 0·inf there
        assert torch.equal(got.isnan() | zero_times_inf, theirs.isnan())
        assert torch.equal(got.isinf() & ~zero_times_inf, theirs.isinf())
        return
    if kw['reduction'] != 'none':
        total = mpmath.fsum(loss for loss, _ in truths)
        if kw['reduction'] == 'mean':
            total /= mpmath.fsum(count for _, count in truths)
        truths = [(total, 1)]
    # where the log-probability of a leader is near 0, float32 has 1 + rest
    slack = 64*torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    for mine, (truth, _) in zip(got.view(-1).tolist(), truths):
        if near_overflow(truth, dtype):
            continue
        assert abs(mpmath.mpf(mine) - truth) <= 8*eps*abs(truth) + slack, (mine, truth)
    mine = gradient(partial(cross_entropy, target=target, **kw), x)
    yours = gradient(partial(F.cross_entropy, target=soft, **wide), x.double())
    if ignore is not None:  # ours are 0, where PyTorch's can be nan
        yours[target == ignore] = 0.
    assert_close(mine.double(), yours, rtol=0, atol=64*eps)


@pytest.mark.parametrize('smooth', (0., 0.1))
def test_cross_entropy_of_odd_rows(smooth):
    for values in product((inf, -inf, nan, 0., 100., -1e4), repeat=3):
        for y in range(3):
            args = torch.tensor([values]), torch.tensor([y])
            ours, theirs = (f(*args, label_smoothing=smooth) for f in (cross_entropy,
                                                                      F.cross_entropy))
            assert_close(ours, theirs, equal_nan=True)


def test_what_is_not_asked_for_counts_nothing():
    "0 times infinity, as class number or soft target; rows left out have no gradient at all."
    out = torch.tensor([[0., -inf], [nan, 1.]])
    for y in (torch.tensor([[1., 0.]]), torch.tensor([0])):
        assert cross_entropy(out[:1], y) == 0
        assert (gradient(partial(cross_entropy, target=y), out[:1]) == 0).all()
    left = partial(cross_entropy, target=torch.tensor([0, -1]), ignore_index=-1)
    assert (gradient(left, out) == 0).all()
    none = torch.full((2,), -1)
    for kind, want in (('sum', 0), ('none', 0)):
        assert (cross_entropy(out, none, ignore_index=-1, reduction=kind) == want).all()
    assert cross_entropy(out, none, ignore_index=-1, check=False).isnan()


def test_soft_targets_have_gradients():
    q = torch.eye(4, dtype=torch.float64)[:3].requires_grad_()
    cross_entropy(X, q).backward()
    assert_close(q.grad, -log_softmax(X)/3)


def test_arguments_are_left_alone():
    x, t, w = X.clone(), TARGET.clone(), W.clone()
    cross_entropy(x, t, weight=w, ignore_index=3), softmax(x), log_softmax(x), logsumexp(x)
    assert torch.equal(x, X) and torch.equal(t, TARGET) and torch.equal(w, W)


def test_a_network_learns_with_it():
    "One step with ours moves the weights as PyTorch's loss does."
    net = torch.nn.Linear(4, 4).double()
    params = {k: v.detach() for k, v in net.named_parameters()}
    ours, theirs = (grad(lambda p: f(functional_call(net, p, (X,)), TARGET))(params)
                    for f in (partial(cross_entropy, check=False), F.cross_entropy))
    for k in params:
        assert_close(ours[k], theirs[k])


# -- the precise forms

@pytest.mark.slow
@pytest.mark.parametrize('name', PRECISE)
@every_dtype
def test_precise_to_the_last_digit(name, dtype):
    "In units in the last place: at most 2, or no worse than PyTorch's worst."
    worst = {'ours': 0., 'theirs': 0.}

    @settings(few, max_examples=500)
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
    assert worst['ours'] <= max(2, worst['theirs'])
    if name == 'softmax':
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
