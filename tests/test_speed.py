"""The loop without autograd does what autograd does, refuses the rest, is faster, and frugal."""
import os
import subprocess
import sys
from copy import deepcopy
from functools import partial
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnist_mb import speed
from mnist_mb.nll import cross_entropy
from mnist_mb.speed import (
    benchmark, best_times, manual_epoch, manual_steps, matmul_floor, plot_benchmark)
from mnist_mb.training import Model, PlainSGD, evaluate, fit, minibatches, train_epoch


def new_model(nh=50, dtype=torch.float):
    torch.manual_seed(1)
    return Model(784, nh, 10).to(dtype)


def some(n, dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 784, generator=g, dtype=dtype), torch.randint(10, (n,), generator=g)


def far(one, other):
    return max((p - q).abs().max().item() for p, q in zip(one.parameters(), other.parameters()))


# In float64 rounding is near 1e-15 after a few steps; a derivative that is off by a part in a
# thousand shows in the fifth decimal. The bound lies between, a thousandfold from both.
CLOSE = 1e-10


IN_PYTHON = partial(manual_epoch, steps=manual_steps)


@pytest.mark.parametrize('epoch_func', [manual_epoch, IN_PYTHON])
@pytest.mark.parametrize('nh, opt, loss_func', [(3, PlainSGD, F.cross_entropy),
                                                (50, torch.optim.SGD, cross_entropy)])
def test_same_as_autograd(epoch_func, nh, opt, loss_func):
    x, y = some(1260)  # in fifties, the last minibatch has ten rows
    nets = [new_model(nh, torch.double) for _ in range(2)]
    losses = []
    for net, epoch in zip(nets, (train_epoch, epoch_func)):
        batches = minibatches(x, y, 50, shuffle=False)
        losses.append(epoch(net, batches, opt(net.parameters(), lr=0.1), loss_func))
    assert far(*nets) < CLOSE < 1e-3 < far(nets[0], new_model(nh, torch.double))
    assert losses[0] == pytest.approx(losses[1], abs=CLOSE)


@pytest.mark.parametrize('epoch_func', [manual_epoch, IN_PYTHON])
def test_each_parameter_takes_its_step(epoch_func):
    x, y = some(50)
    for rows in (50, 7):
        net, other = new_model(dtype=torch.double), new_model(dtype=torch.double)
        loss = epoch_func(net, [(x[:rows], y[:rows])], PlainSGD(net.parameters(), 0.1))
        expected = F.cross_entropy(other(x[:rows]), y[:rows])
        expected.backward()
        assert loss == pytest.approx(expected.item())
        for p, q in zip(net.parameters(), other.parameters()):
            torch.testing.assert_close(p.detach(), q.detach() - 0.1*q.grad, rtol=0, atol=1e-13)


def test_as_epoch_func_of_fit(drawn):
    train, valid = ((x[:2000], y[:2000]) for x, y in drawn[:2])
    histories = []
    for epoch_func in (train_epoch, manual_epoch):
        net = new_model()
        histories.append(fit(net, train, valid, epochs=2, lr=0.1, progress=False,
                             epoch_func=epoch_func))
    # float32: training magnifies rounding; a wrong gradient is off by far more
    assert (histories[0] - histories[1]).abs().max().max() < 0.02
    assert histories[1].train_loss.iloc[1] < histories[1].train_loss.iloc[0] - 0.2


def test_sequential_mode_and_place():
    net = nn.Sequential(nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10)).eval()
    kept = list(net.parameters())
    x, y = some(120, torch.float)
    before = evaluate(net, (x, y))[0]
    told = manual_epoch(net, [(x, y)], PlainSGD(net.parameters(), 0.5))
    assert told == pytest.approx(before, rel=1e-4) and evaluate(net, (x, y))[0] < before
    assert net.training and all(p is q for p, q in zip(net.parameters(), kept))
    assert all(p.grad is None and p.requires_grad for p in kept)


def test_weights_can_still_be_trained_by_autograd():
    net, (x, y) = new_model(), some(50, torch.float)
    manual_epoch(net, [(x, y)], PlainSGD(net.parameters(), 0.5))
    before = deepcopy(net)
    train_epoch(net, [(x, y)], PlainSGD(net.parameters(), 0.5))
    assert far(net, before) > 1e-3


def test_model_and_optimizer_of_a_notebook():
    "Chapter 03's own cells make classes of the same names."
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 10))

        def forward(self, x):
            return self.layers(x)

    class PlainSGD:
        def __init__(self, params, lr):
            self.params, self.lr = list(params), lr
    net = Model()
    manual_epoch(net, [some(9, torch.float)], PlainSGD(net.parameters(), 0.1))


class Halved(Model):
    def forward(self, x):
        return super().forward(x)/2


def hooked():
    net = new_model()
    net.layers[1].register_forward_hook(lambda *_: None)
    return net


def hooked_weight():
    net = new_model()
    net.layers[0].weight.register_hook(lambda g: 0*g)
    return net


def hooked_backward():
    net = new_model()
    net.layers[2].register_full_backward_hook(lambda *_: None)
    return net


def frozen():
    net = new_model()
    net.layers[0].bias.requires_grad_(False)
    return net


def shared():
    square = nn.Linear(784, 784)
    return nn.Sequential(square, nn.ReLU(), square)


@pytest.mark.parametrize('make', [
    hooked, hooked_weight, hooked_backward, frozen, shared, lambda: Halved(784, 5, 10),
    lambda: nn.Linear(784, 10),
    lambda: nn.Sequential(nn.Linear(784, 9), nn.Tanh(), nn.Linear(9, 10)),
    lambda: nn.Sequential(nn.Linear(784, 9, bias=False), nn.ReLU(), nn.Linear(9, 10)),
    lambda: nn.Sequential(nn.Linear(784, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 10))])
def test_other_models_are_refused(make):
    net = make()
    before = deepcopy(net.state_dict())
    with pytest.raises(ValueError, match='use train_epoch'):
        manual_epoch(net, [some(5, torch.float)], PlainSGD(net.parameters(), 0.1))
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())


@pytest.mark.parametrize('opt', [
    lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    lambda p: torch.optim.SGD(p, 0.1, maximize=True),
    lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.1), torch.optim.Adam,
    lambda p: type('Mine', (PlainSGD,), {})(p, 1), lambda p: PlainSGD(list(p)[:2], 0.1),
    lambda p: torch.optim.SGD([{'params': [q], 'lr': 1.} for q in p])])
def test_other_optimizers_are_refused(opt):
    net = new_model()
    with pytest.raises(ValueError, match='optimizer.*use train_epoch'):
        manual_epoch(net, [some(5, torch.float)], opt(net.parameters()))


def test_other_losses_are_refused():
    net = new_model()
    with pytest.raises(ValueError, match='loss.*use train_epoch'):
        manual_epoch(net, [some(5, torch.float)], PlainSGD(net.parameters(), 0.1), F.nll_loss)


x5, y5 = some(5, torch.float)


@pytest.mark.parametrize('epoch_func', [manual_epoch, IN_PYTHON])
@pytest.mark.parametrize('first', [[], [(x5, y5)]])  # others before them, or none
@pytest.mark.parametrize('x, y, error', [
    (x5.double(), y5, 'dtype'), (x5[:, :7], y5, 'shape'), (x5, y5[:4], 'size'),
    (x5[:4], y5, 'size'), (x5[:0], y5[:0], 'bs is 0'), (x5, y5.float(), 'int'),
    (x5, y5[:, None], 'vector'), (x5.view(5, 28, 28), y5, '2 dimensions'),
    *((x5, torch.tensor([0, 1, 2, 3, k]), 'out of') for k in (10, -1, -100))])
def test_wrong_minibatches_change_nothing(epoch_func, first, x, y, error):
    net, other = new_model(), new_model()
    if first:
        manual_epoch(other, first, PlainSGD(other.parameters(), 0.1))
    with pytest.raises((ValueError, IndexError, RuntimeError), match=error):
        epoch_func(net, [*first, (x, y)], PlainSGD(net.parameters(), 0.1))
    assert far(net, other) == 0


@pytest.mark.parametrize('version, there', [((3, 14), True), ((3, 11), False)])
def test_without_torchscript_python_does_the_steps(monkeypatch, version, there):
    monkeypatch.setattr(speed.sys, 'version_info', version)
    if not there:
        monkeypatch.delattr(torch.jit, 'script')
    assert speed._scripted.__wrapped__() is manual_steps


def test_torchscript_is_used_and_says_nothing(recwarn):
    assert isinstance(speed._scripted.__wrapped__(), torch.jit.ScriptFunction) and not recwarn


@pytest.mark.parametrize('given', [False, True])
def test_which_steps_are_taken(monkeypatch, given):
    ours, theirs, net = [], [], new_model()
    monkeypatch.setattr(speed, '_scripted', lambda: lambda *args: theirs.append(args))
    manual_epoch(net, [(x5, y5)]*5, PlainSGD(net.parameters(), 0.5),
                 steps=(lambda *args: ours.append(args)) if given else None)
    assert [len(xs) for xs, ys, room, rate in (ours if given else theirs)] == [4, 1]
    assert not (theirs if given else ours)


def test_no_minibatches_are_refused():
    net = new_model()
    with pytest.raises(ValueError, match='no minibatches'):
        manual_epoch(net, [], PlainSGD(net.parameters(), 0.1))


def test_interrupted_keeps_the_steps_done():
    x, y = some(5)

    def interrupted():
        yield from [(x, y)]*4  # as many are taken at a time
        raise KeyboardInterrupt
    net, other = new_model(dtype=torch.double), new_model(dtype=torch.double)
    with pytest.raises(KeyboardInterrupt):
        manual_epoch(net, interrupted(), PlainSGD(net.parameters(), 0.1))
    train_epoch(other, [(x, y)]*4, PlainSGD(other.parameters(), 0.1))
    assert far(net, other) < CLOSE


@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_on_a_device(device):
    if not getattr(torch, device if device == 'cuda' else 'backends.mps', torch.backends.mps
                   ).is_available():
        pytest.skip(f'needs a device {device}')
    net, other, (x, y) = new_model(), new_model(), some(500, torch.float)
    fit(net.to(device), (x.to(device), y.to(device)), epochs=1, lr=0.1, progress=False,
        epoch_func=manual_epoch)
    fit(other, (x, y), epochs=1, lr=0.1, progress=False)
    assert far(net.cpu(), other) < 1e-3


def test_no_step_waits_for_a_device():
    "meta tensors have no numbers: whatever asks for one fails."
    w1, b1, w2, b2 = (p.detach() for p in new_model().to('meta').parameters())
    room = speed._room(w1, b1, torch.cat([w2, b2[:, None]], 1), 5)
    manual_steps([x5.to('meta')], [y5.to('meta')], room, -0.1)
    with pytest.raises(RuntimeError):
        room[0].sum().item()


def test_best_times_takes_turns_and_the_best():
    clock = iter([0, 5, 5, 6, 10, 12, 12, 20]).__next__
    calls = []
    best = best_times({k: lambda k=k: calls.append(k) for k in 'ab'}, 2, clock)
    assert calls == ['a', 'b', 'a', 'b'] and best == {'a': 2, 'b': 1}
    with pytest.raises(ValueError, match='rounds is 0'):
        best_times({}, 0)


def test_matmul_floor_does_the_two_products_of_each_minibatch(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, 'mm', lambda a, b: calls.append((*a.shape, *b.shape)))
    matmul_floor(torch.zeros(7, 784), nh=3, bs=5)
    assert calls == [(5, 784, 784, 3), (784, 5, 5, 3), (2, 784, 784, 3), (784, 2, 2, 3)]


def test_benchmark_compares_all_ways(drawn):
    train, valid = ((x[:1030], y[:1030]) for x, y in drawn[:2])
    state, before = torch.get_rng_state(), torch.get_num_threads()
    table = benchmark(train, valid, rounds=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == before and 'NPROC' not in os.environ
    assert table.ratio.iloc[0] == 1 and (table.seconds > 0).all()
    assert list(table.columns) == ['seconds', 'ratio', 'accuracy'] and table.index.name == 'way'
    assert len(table) == 10 - len(table.attrs['missing'])
    assert table.attrs['threads'] == 1 and table.attrs['processor']
    accuracy = table.accuracy.iloc[1:]
    assert accuracy.between(0.2, 1).all()
    for bad in ({'rounds': 0}, {'bs': 0}, {'nh': 1.5}, {'lr': -1}, {'threads': 0}):
        with pytest.raises(ValueError, match=f'{[*bad][0]} is'):
            benchmark(train, valid, **bad)
    ax = plot_benchmark(table)
    assert [bar.get_width() for bar in ax.patches] == sorted(table.ratio, reverse=True)
    assert len(ax.texts) == len(table)


def test_threads_are_those_asked_for(monkeypatch):
    seen = []
    monkeypatch.setattr(speed, '_WAYS', {
        'a': lambda *_: seen.append((torch.get_num_threads(), os.environ['NPROC']))})
    before, data = torch.get_num_threads(), some(60, torch.float)
    assert benchmark(data, data, rounds=1, threads=before + 1).attrs['threads'] == before + 1
    assert seen == [(before + 1, str(before + 1))] and torch.get_num_threads() == before


def test_what_is_not_installed_takes_no_part(monkeypatch):
    ways = {'a': lambda *_: None, 'b': speed._jax, 'c': speed._keras, 'd': speed._numpy_loop}
    monkeypatch.setattr(speed, '_WAYS', ways)
    monkeypatch.setattr(speed, 'find_spec', lambda name: None)
    data = some(60, torch.float)
    table = benchmark(data, data, rounds=1)
    assert [*table.index] == ['matmul floor', 'a']
    assert table.attrs['missing'] == ['jax', 'keras', 'sklearn', 'threadpoolctl']


RIVALS = [name for name, needs in (('JAX, jit and scan', 'jax'), ('Keras', 'keras'))
          if find_spec(needs)]


@pytest.mark.parametrize('names', [['without autograd', 'bare loop', 'NumPy by hand', *RIVALS],
                                   ['without autograd, shuffled', 'fit, shuffled']])
def test_the_ways_that_deal_alike_do_the_same(drawn, names):
    x, y = drawn[0][0][:530], drawn[0][1][:530]
    nets = {name: new_model() for name in names}
    for name, net in nets.items():
        speed._WAYS[name](net, x, y, 50, 0.1)
        assert far(net, nets[names[0]]) < 1e-4 < 1e-2 < far(net, new_model())


@pytest.mark.slow
def test_clearly_faster_than_autograd():
    "The ratio was 0.4 on a busy machine: the best of several, in the processor's seconds."
    data = some(20_000, torch.float)

    def epoch(epoch_func):
        net = new_model()
        epoch_func(net, minibatches(*data, 50, shuffle=False), PlainSGD(net.parameters(), 1e-3))
    spent = best_times({f: lambda f=f: epoch(f) for f in (manual_epoch, train_epoch)}, 7)
    assert spent[manual_epoch] < 0.7*spent[train_epoch]


@pytest.mark.slow
def test_fit_is_no_slower_than_the_bare_loop_by_much():
    "fit shuffles, and copies the rows for that."
    ratio = benchmark(some(20_000, torch.float), some(100, torch.float), lr=1e-3, rounds=7).ratio
    assert ratio['fit, shuffled'] < 1.4*ratio['bare loop']


MEMORY = '''
import resource, sys, torch
from mnist_mb import speed, training

unit = 2**20 if sys.platform == 'darwin' else 2**10
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/unit

torch.set_num_threads(1)
x, y = torch.rand(500, 8), torch.randint(3, (500,))
epoch_func = getattr(speed, sys.argv[1], None) or getattr(training, sys.argv[1])
def train(steps):
    net = training.Model(8, 4, 3)
    deal = (torch.randperm(500)[:5] for _ in range(steps))
    epoch_func(net, ((x[i], y[i]) for i in deal), training.PlainSGD(net.parameters(), 0.1))

train(1000)
start, taken = peak(), []
while peak() < start + 1:  # use up what is free, so that the peak shows all that comes
    taken.append(torch.ones(1000))
for _ in range(2):
    before = peak()
    train(10_000)
    print(peak() - before)
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='resource is not on Windows')
@pytest.mark.parametrize('epoch_func', ['train_epoch', 'manual_epoch'])
def test_memory_is_constant(epoch_func):
    "A tensor kept per minibatch would take 5 MB in 10,000 with its bookkeeping, or more."
    command = [sys.executable, '-c', MEMORY, epoch_func]
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    rises = subprocess.check_output(command, text=True, env=env).split()
    assert len(rises) == 2 and min(map(float, rises)) < 2, rises
