"""The loop without autograd does what autograd does, refuses the rest, is faster, and frugal."""
import os
import subprocess
import sys
from copy import deepcopy
from functools import partial
from time import process_time

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mnist_mb.nll import cross_entropy
from mnist_mb.speed import gradients_by_hand, manual_epoch
from mnist_mb.training import Model, PlainSGD, evaluate, fit, minibatches, train_epoch


def new_model(nh=50, dtype=torch.float):
    torch.manual_seed(1)
    return Model(784, nh, 10).to(dtype)


def some(n, dtype=torch.double):
    g = torch.Generator().manual_seed(0)
    return torch.rand(n, 784, generator=g, dtype=dtype), torch.randint(10, (n,), generator=g)


def far(one, other):
    return max((p - q).abs().max().item() for p, q in zip(one.parameters(), other.parameters()))


# --- the same training -----------------------------------------------------------------------

@pytest.mark.parametrize('nh, opt, loss_func', [
    (3, PlainSGD, F.cross_entropy), (50, torch.optim.SGD, cross_entropy),
    (50, PlainSGD, nn.CrossEntropyLoss())])
@pytest.mark.parametrize('sizes', [[50]*25 + [10], [7, 50, 7, 1, 50]])
def test_same_as_autograd(nh, opt, loss_func, sizes):
    "In float64 steps of 0.1 round by 1e-15; a thousandth more of one would show at 1e-5."
    x, y = some(sum(sizes))
    nets = [new_model(nh, torch.double) for _ in range(2)]
    losses = [epoch_func(net, zip(x.split(sizes), y.split(sizes)), opt(net.parameters(), lr=0.1),
                         loss_func) for net, epoch_func in zip(nets, (train_epoch, manual_epoch))]
    assert far(*nets) < 1e-12 < 1e-3 < far(nets[0], new_model(nh, torch.double))
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


@pytest.mark.parametrize('rows', [50, 7])
def test_each_parameter_takes_its_step(rows):
    net, other, (x, y) = new_model(dtype=torch.double), new_model(dtype=torch.double), some(rows)
    loss = manual_epoch(net, [(x, y)], PlainSGD(net.parameters(), 0.1))
    expected = F.cross_entropy(other(x), y)
    gradients = torch.autograd.grad(expected, [*other.parameters()])
    assert loss == pytest.approx(expected.item(), abs=1e-12)
    by_hand = gradients_by_hand(*other.parameters(), x, y)
    close = partial(torch.testing.assert_close, rtol=0, atol=1e-13)
    for p, q, g, h in zip(net.parameters(), other.parameters(), gradients, by_hand):
        close(p.detach(), q.detach() - 0.1*g)
        close(h, g)
        assert not h.requires_grad and p.requires_grad and p.grad is None


def test_as_epoch_func_of_fit(drawn):
    train, valid = ((x[:2010], y[:2010]) for x, y in drawn[:2])
    nets = [new_model().eval() for _ in range(2)]
    kept = [*nets[1].parameters()]
    histories = [fit(net, train, valid, epochs=2, lr=0.1, progress=False, epoch_func=epoch_func)
                 for net, epoch_func in zip(nets, (train_epoch, manual_epoch))]
    # float32: training magnifies rounding; a wrong gradient is off by far more
    assert (histories[0] - histories[1]).abs().max().max() < 0.02
    assert histories[1].train_loss[2] < histories[1].train_loss[1] - 0.2
    assert all(p is q for p, q in zip(nets[1].parameters(), kept))
    before = deepcopy(nets[1])
    train_epoch(nets[1], [(train[0], train[1])], PlainSGD(kept, 0.5))  # autograd can go on
    assert far(nets[1], before) > 1e-3


def test_the_model_is_left_in_training_mode():
    net = new_model().eval()
    with torch.no_grad():
        manual_epoch(net, [some(5, torch.float)], PlainSGD(net.parameters(), 0.1))
    assert net.training


def test_interrupted_keeps_the_steps_done():
    def interrupted():
        yield from [some(5)]*3
        assert torch.is_inference_mode_enabled()
        raise KeyboardInterrupt
    net, other = new_model(dtype=torch.double), new_model(dtype=torch.double)
    with pytest.raises(KeyboardInterrupt):
        manual_epoch(net, interrupted(), PlainSGD(net.parameters(), 0.1))
    train_epoch(other, [some(5)]*3, PlainSGD(other.parameters(), 0.1))
    assert far(net, other) < 1e-12


x5, y5 = some(5, torch.float)


@pytest.mark.parametrize('first', [[], [(x5, y5)]])  # others before them, or none
@pytest.mark.parametrize('x, y, error', [
    (x5.double(), y5, 'dtype'), (x5[:, :7], y5, 'shape'), (x5, y5[:4], 'shape|size'),
    (x5, y5.float(), 'int'), (x5, y5[:, None], 'vector'), (x5.view(5, 28, 28), y5, 'shape|2'),
    *((x5, torch.tensor([0, 1, 2, 3, k]), 'out of') for k in (10, -1, -100))])
def test_wrong_minibatches_change_nothing(first, x, y, error):
    net, other = new_model(), new_model()
    if first:
        manual_epoch(other, first, PlainSGD(other.parameters(), 0.1))
    with pytest.raises((ValueError, IndexError, RuntimeError), match=error):
        manual_epoch(net, [*first, (x, y)], PlainSGD(net.parameters(), 0.1))
    assert far(net, other) == 0


def test_without_minibatches_it_ends_as_train_epoch_does():
    short = DataLoader(TensorDataset(x5, y5), 50, drop_last=True)
    for epoch_func in (train_epoch, manual_epoch):
        with pytest.raises(ZeroDivisionError) as caught:
            fit(new_model(), short, epochs=1, progress=False, epoch_func=epoch_func)
        assert 'no minibatch' in caught.value.__notes__[0]


# --- what it takes, and what it refuses ------------------------------------------------------

class Functional(nn.Module):
    "Two layers, and what `between` and `after` do."
    def __init__(self, between=F.relu, after=nn.Identity()):
        super().__init__()
        self.first, self.second = nn.Linear(784, 20), nn.Linear(20, 10)
        self.between, self.after = between, after

    def forward(self, x):
        return self.after(self.second(self.between(self.first(x))))


def changed(change):
    net = new_model()
    change(net.layers)
    return net


def sequential(*layers):
    return nn.Sequential(nn.Linear(784, 9), *layers, nn.Linear(9, 10))


def scaled(by):
    return lambda layers: [p.data.mul_(by) for p in layers.parameters()]


SQUARE = nn.Linear(784, 784)


@pytest.mark.parametrize('rows', [10, 500])
@pytest.mark.parametrize('net', [
    Functional(), sequential(nn.ReLU()), changed(scaled(0)), changed(scaled(float('nan'))),
    changed(scaled(100)), changed(lambda layers: layers[1].register_forward_hook(lambda *_: None))])
def test_models_that_are_the_same_by_another_name(net, rows):
    "Whatever the weights are: all 0, no numbers any more, or so large that the loss is nearly 0."
    net, other, x = deepcopy(net), deepcopy(net), some(rows, torch.float)[0]
    batches = [(x, net(x).argmax(1))]*3
    manual_epoch(net, batches, PlainSGD(net.parameters(), 1e-6))
    train_epoch(other, batches, PlainSGD(other.parameters(), 1e-6))
    for p, q in zip(net.parameters(), other.parameters()):
        torch.testing.assert_close(p, q, equal_nan=True)


@pytest.mark.parametrize('net', [
    Functional(F.leaky_relu), Functional(torch.tanh), Functional(after=lambda x: x/2),
    Functional(lambda a: a.detach().relu()), sequential(nn.Sigmoid()), sequential(),
    sequential(nn.ReLU(), nn.Dropout()), sequential(nn.ReLU(), nn.BatchNorm1d(9, affine=False)),
    sequential(nn.ReLU(), nn.Linear(9, 9)), nn.Linear(784, 10),
    nn.Sequential(nn.Linear(784, 9, bias=False), nn.ReLU(), nn.Linear(9, 10)),
    nn.Sequential(SQUARE, nn.ReLU(), SQUARE),
    nn.Sequential(nn.Unflatten(1, (1, 784)), nn.Conv1d(1, 5, 784), nn.ReLU(), nn.Flatten(),
                  nn.Linear(5, 10)),
    changed(lambda layers: layers[0].bias.requires_grad_(False)),
    changed(lambda layers: layers[0].weight.register_hook(lambda g: 0*g)),
    changed(lambda layers: layers[1].register_forward_hook(lambda part, xs, out: 2*out)),
    changed(lambda layers: layers[2].register_full_backward_hook(
        lambda part, of_in, of_out: tuple(g/2 for g in of_in)))])
def test_other_models_are_refused(net):
    before = deepcopy([p.detach() for p in net.parameters()])
    with pytest.raises(ValueError, match='use train_epoch'):
        manual_epoch(net, [(x5, y5)], PlainSGD(net.parameters(), 0.1))
    assert all(map(torch.equal, net.parameters(), before))


@pytest.mark.parametrize('opt', [
    partial(torch.optim.SGD, momentum=0.9), partial(torch.optim.SGD, weight_decay=1e-4),
    partial(torch.optim.SGD, maximize=True), torch.optim.Adam, torch.optim.Adagrad,
    lambda params, lr: type('Mine', (PlainSGD,), {})(params, lr),
    lambda params, lr: PlainSGD([*params][:2], lr), lambda params, lr: PlainSGD(
        new_model().parameters(), lr),
    lambda params, lr: torch.optim.SGD([{'params': [p], 'lr': lr} for p in params])])
def test_other_optimizers_are_refused(opt):
    net = new_model()
    with pytest.raises(ValueError, match='plain SGD.*use train_epoch'):
        manual_epoch(net, [(x5, y5)], opt(net.parameters(), lr=0.1))


@pytest.mark.parametrize('loss_func', [
    F.nll_loss, F.multi_margin_loss, nn.CrossEntropyLoss(label_smoothing=0.01),
    nn.CrossEntropyLoss(reduction='sum'), partial(F.cross_entropy, ignore_index=9),
    nn.CrossEntropyLoss(weight=torch.arange(1., 11))])
def test_other_losses_are_refused(loss_func):
    net, (x, y) = new_model(), some(50, torch.float)
    with pytest.raises(ValueError, match='cross entropy; use train_epoch'):
        manual_epoch(net, [(x, y % 9)], PlainSGD(net.parameters(), 0.1), loss_func)


def test_model_and_optimizer_of_a_notebook():
    "Chapter 03's own cells make a class of the same name."
    class PlainSGD:
        def __init__(self, params, lr):
            self.params, self.lr = list(params), lr
    net = new_model()
    before = evaluate(net, (x5, y5))[0]
    told = manual_epoch(net, [(x5, y5)], PlainSGD(net.parameters(), 0.1))
    assert told == pytest.approx(before, rel=1e-5) and evaluate(net, (x5, y5))[0] < before


# --- devices, time and memory ----------------------------------------------------------------

@pytest.mark.parametrize('device', ['cuda', 'mps'])
def test_on_a_device(device):
    if not {'cuda': torch.cuda, 'mps': torch.backends.mps}[device].is_available():
        pytest.skip(f'needs a device {device}')
    net, other, (x, y) = new_model(), new_model(), some(510, torch.float)
    fit(net.to(device), (x.to(device), y.to(device)), epochs=1, lr=0.1, progress=False,
        epoch_func=manual_epoch)
    fit(other, (x, y), epochs=1, lr=0.1, progress=False)
    assert far(net.cpu(), other) < 1e-3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='its clock of the processor is coarse')
def test_clearly_faster_than_autograd():
    "The ratio was 0.4 on a busy machine: the best of several, in the processor's seconds."
    data, best = some(5_000, torch.float), {}
    for _ in range(7):
        for epoch_func in (manual_epoch, train_epoch):
            net, start = new_model(), process_time()
            batches = minibatches(*data, 50, shuffle=False)
            epoch_func(net, batches, PlainSGD(net.parameters(), 1e-3))
            spent = process_time() - start
            best[epoch_func] = min(spent, best.get(epoch_func, spent))
    assert best[manual_epoch] < 0.7*best[train_epoch]


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

train(500)
start, taken = peak(), []
while peak() < start + 1:  # use up what is free, so that the peak shows all that comes
    taken.append(torch.ones(1000))
for _ in range(2):
    before = peak()
    train(4000)
    print(peak() - before)
'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='resource is not on Windows')
@pytest.mark.parametrize('epoch_func', ['train_epoch', 'manual_epoch'])
def test_memory_is_constant(epoch_func):
    "A tensor kept per minibatch would take 2 MB in 4,000 with its bookkeeping, or more."
    command = [sys.executable, '-c', MEMORY, epoch_func]
    env = os.environ | {'OMP_NUM_THREADS': '1'}
    rises = subprocess.check_output(command, text=True, env=env).split()
    assert len(rises) == 2 and min(map(float, rises)) < 0.8, rises
