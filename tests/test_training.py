"""Minibatches, evaluate, the optimizer and fit: laws, refusals, and the figures of MNIST."""
import gc
import io
import itertools
import json
import signal
import sys
import time
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from mnist_mb import training
from mnist_mb.nll import cross_entropy
from mnist_mb.training import (Model, PlainSGD, accuracy, evaluate, fit, minibatches, plot_history,
                               report, train_epoch)

matplotlib.use('Agg')
quiet = partial(fit, progress=False)


def rows(n, seed=0, n_in=784):
    "n random rows with labels: the pixel of a row's class is bright."
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (n,), generator=generator)
    return torch.rand(n, n_in, generator=generator)/4 + F.one_hot(y, n_in), y


def new_model():
    torch.manual_seed(1)
    return Model(784, 50, 10)


def weights(net):
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


def weights_after(data=None, **kw):
    net = new_model()
    quiet(net, data or rows(130), **dict(epochs=1) | kw)
    return weights(net)


# the model

def test_model_is_the_two_formulas():
    net, (x, _) = new_model(), rows(7)
    w1, b1, w2, b2 = net.parameters()
    assert_close(net(x), (x @ w1.T + b1).clamp(min=0) @ w2.T + b2)
    assert [tuple(p.shape) for p in (w1, b1, w2, b2)] == [(50, 784), (50,), (10, 50), (10,)]


def test_model_starts_as_the_notes_do():
    net = new_model()
    torch.manual_seed(1)
    first, second = nn.Linear(784, 50), nn.Linear(50, 10)
    assert list(net.state_dict()) == [f'layers.{i}.{p}' for i in (0, 2) for p in ('weight', 'bias')]
    for p, q in zip(net.parameters(), [*first.parameters(), *second.parameters()], strict=True):
        assert p.equal(q)


def test_model_calls_hooks():
    net, calls = new_model(), []
    net.register_forward_hook(lambda *_: calls.append(1))
    net(rows(2)[0])
    assert calls == [1]


# accuracy and report

@pytest.mark.parametrize('wrong', range(4))
def test_accuracy_counts(wrong):
    logits, target = torch.eye(4), torch.arange(4)
    target[:wrong] = (target[:wrong] + 1) % 4
    got = accuracy(logits, target)
    assert (got.item(), got.shape, got.dtype) == (1 - wrong/4, (), torch.float32)


def test_accuracy_nan_is_wrong():
    logits = torch.tensor([[float('nan'), 0], [1, 0], [1, float('nan')]])
    assert_close(accuracy(logits, torch.tensor([0, 0, 0])), torch.tensor(1/3))


@pytest.mark.parametrize('logits, target', [
    ((50, 10), (50, 1)), ((50, 10), (1, 50)), ((50, 10), (1,)), ((50, 10), (49,)), ((50,), (50,)),
    ((0, 10), (0,)), ((5, 10, 2), (5,))])
def test_accuracy_refuses_shapes(logits, target):
    with pytest.raises(ValueError, match='shape|class numbers|rows'):
        accuracy(torch.zeros(logits), torch.zeros(target).long())


@pytest.mark.parametrize('logits, target, error, words', [
    (torch.eye(3), torch.tensor([0, 3, 1]), IndexError, 'value 3, but there are 3 classes'),
    (torch.eye(3), torch.tensor([0, -1, 1]), IndexError, 'value -1'),
    (torch.zeros(2, 1), torch.tensor([0, 1]), IndexError, '0 to 0'),
    (torch.eye(3), torch.zeros(3), TypeError, 'float32.*long'),
    (torch.eye(3), [0, 1, 2], TypeError, 'target is a list'),
    (torch.eye(3).numpy(), torch.zeros(3).numpy(), TypeError, 'logits is a ndarray.*as_tensor')])
def test_accuracy_refuses_what_is_no_class_number(logits, target, error, words):
    with pytest.raises(error, match=words):
        accuracy(logits, target)


def test_accuracy_leaves_ignored_rows_out():
    assert accuracy(torch.eye(4)[:3], torch.tensor([0, -100, 2])) == 1
    for dtype in (torch.int64, torch.uint8):
        target = torch.tensor([0, 1, 0, 255]).to(dtype)
        assert accuracy(torch.eye(4), target, ignore_index=255) == torch.tensor(2/3)
    assert accuracy(torch.eye(4), torch.tensor([156, 1, 2, 3]).to(torch.uint8), 156) == 1


def test_report_prints_two_decimals(capsys):
    report(torch.tensor(2.), torch.tensor([[.1, .9], [.8, .2], [.3, .7]]), torch.tensor([1, 0, 0]))
    assert capsys.readouterr().out == '2.00, 0.67\n'


# the optimizer

def test_plain_sgd_is_torch_sgd():
    nets = new_model(), new_model()
    for net, opt_func in zip(nets, (PlainSGD, torch.optim.SGD)):
        train_epoch(net, minibatches(*rows(500), 50, False), opt_func(net.parameters(), lr=.3))
    assert_close(weights(nets[0]), weights(nets[1]), rtol=0, atol=1e-6)


def test_plain_sgd_step_by_hand():
    w, idle = nn.Parameter(torch.tensor([1., -2.])), nn.Parameter(torch.tensor([3.]))
    optimizer = PlainSGD(iter([w, idle]), lr=.5)
    w.grad = torch.tensor([2., 4.])
    optimizer.step()
    assert (w.tolist(), idle.tolist()) == ([0., -4.], [3.])
    assert w.requires_grad and w.is_leaf
    optimizer.zero_grad()
    assert w.grad is None
    optimizer.step()
    assert w.tolist() == [0., -4.]


# minibatches

SHAPES = [(n, bs) for n in (1, 2, 7, 50, 101) for bs in (1, 2, 3, 7, 50, 1000)]


@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize('n, bs', SHAPES)
def test_minibatches_laws(n, bs, shuffle):
    x, y = torch.arange(n*6.).reshape(n, 2, 3), torch.arange(n)
    batches = list(minibatches(x, y, bs, shuffle))
    assert [len(yb) for _, yb in batches] == [bs]*(n//bs) + [n % bs]*(n % bs > 0)
    xs, ys = map(torch.cat, zip(*batches))
    assert (xs.shape, xs.dtype, ys.dtype) == (x.shape, x.dtype, y.dtype)
    assert ys.sort().values.equal(y)
    assert xs.equal(x[ys])
    assert shuffle or ys.equal(y)


def orders(seed, epochs=2):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.zeros(100, 1), torch.arange(100)
    return [torch.cat([yb for _, yb in minibatches(x, y, 7, generator=generator)]).tolist()
            for _ in range(epochs)]


def test_minibatches_order_comes_from_the_generator():
    before = torch.get_rng_state()
    assert orders(3) == orders(3)
    assert orders(3) != orders(4)
    assert orders(3)[0] != orders(3)[1]
    assert before.equal(torch.get_rng_state())


def test_minibatches_without_a_generator():
    x, y = torch.zeros(100, 1), torch.arange(100)
    one, two = (torch.cat([yb for _, yb in minibatches(x, y, 7)]) for _ in range(2))
    assert not one.equal(two)
    torch.manual_seed(5)
    first = torch.cat([yb for _, yb in minibatches(x, y, 7)])
    torch.manual_seed(5)
    assert first.equal(torch.cat([yb for _, yb in minibatches(x, y, 7)]))


def test_minibatches_leave_the_data_alone():
    x, y = rows(20)
    kept = x.clone(), y.clone()
    for xb, yb in minibatches(x, y, 6):
        xb.zero_()
        yb.zero_()
    assert x.equal(kept[0]) and y.equal(kept[1])


@pytest.mark.parametrize('n, m, bs, words', [
    (7, 7, 0, 'bs is 0'), (7, 7, -1, 'bs is -1'), (7, 7, 2.5, 'bs is 2.5'),
    (7, 7, True, 'bs is True'), (7, 6, 3, '7 rows of x and 6 of y'), (0, 0, 3, '0 rows'),
    (7, 7, 10**400, 'bs is larger than')])
def test_minibatches_refuse(n, m, bs, words):
    with pytest.raises(ValueError, match=words):
        minibatches(torch.zeros(n, 2), torch.zeros(m), bs)


@pytest.mark.parametrize('shuffle', [True, False])
def test_minibatches_take_numbers_of_numpy_and_refuse_its_arrays(shuffle):
    x, y = rows(7)
    for bs, sizes in ((np.int64(3), [3, 3, 1]), (np.uint8(200), [7]), (2**62, [7])):
        assert [len(yb) for _, yb in minibatches(x, y, bs, shuffle)] == sizes
    for pair in ((x.numpy(), y), (x, y.numpy()), (x, y.tolist())):
        with pytest.raises(TypeError, match='torch.as_tensor'):
            minibatches(*pair, 3, shuffle)


# evaluate

@pytest.mark.parametrize('size', [1, 7, 69, 70, 71, 1000])
def test_evaluate_is_the_mean_of_all_rows(size):
    net, (x, y) = new_model(), rows(70)
    with torch.no_grad():
        want = F.cross_entropy(net(x), y).item(), (net(x).argmax(1) == y).float().mean().item()
    loader = DataLoader(TensorDataset(x, y), batch_size=size)
    for got in (evaluate(net, (x, y), bs=size), evaluate(net, loader),
                evaluate(net, list(minibatches(x, y, size, False)))):
        assert got == pytest.approx(want, abs=1e-5)
        assert list(map(type, got)) == [float, float]


def test_evaluate_obeys_the_bound():
    for n in (1, 10, 300):
        net, data = new_model(), rows(n)
        for lr in (.01, .5, 5.):
            quiet(net, data, epochs=1, lr=lr)
            loss, acc = evaluate(net, data)
            assert loss >= (1 - acc)*torch.log(torch.tensor(2.)).item() - 1e-6


def test_evaluate_restores_each_mode():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(.5), nn.Linear(784, 10))
    few = rows(70)
    once, again = (evaluate(net, few, bs=33) for _ in range(2))
    assert once == again
    net[1].eval()
    evaluate(net, few)
    assert [part.training for part in net.modules()] == [True, True, False, True]
    with pytest.raises(ZeroDivisionError):
        evaluate(net, few, loss_func=lambda logits, y: 1/0)
    assert [part.training for part in net.modules()] == [True, True, False, True]
    net.eval()
    evaluate(net, few)
    assert not any(part.training for part in net.modules())


def test_evaluate_records_nothing():
    net, seen, state = new_model(), [], torch.get_rng_state()
    net.register_forward_hook(
        lambda net, _, out: seen.append((out.requires_grad, len(out), net.training)))
    evaluate(net, rows(7), bs=3)
    assert seen == [(False, 3, False), (False, 3, False), (False, 1, False)]
    assert torch.is_grad_enabled() and state.equal(torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


def test_evaluate_with_another_loss():
    net, data = new_model(), rows(70)
    twice = evaluate(net, data, loss_func=lambda z, y: 2*F.cross_entropy(z, y))
    loss, acc = evaluate(net, data)
    assert twice == pytest.approx((2*loss, acc), abs=1e-5)


WEIGHTS = torch.arange(10.)


@pytest.mark.parametrize('loss_func', [
    nn.CrossEntropyLoss(WEIGHTS), partial(cross_entropy, weight=WEIGHTS, ignore_index=-100),
    nn.CrossEntropyLoss(reduction='sum'), nn.CrossEntropyLoss(label_smoothing=.1, ignore_index=3),
    partial(F.cross_entropy, ignore_index=255), nn.MultiMarginLoss()])
def test_evaluate_does_not_depend_on_the_size_of_minibatches(loss_func):
    "Weights of classes, and a whole minibatch of ignored rows: the mean is that of the set."
    net, (x, y) = new_model(), rows(70)
    ignored = getattr(loss_func, 'keywords', vars(loss_func)).get('ignore_index')
    y[7:21] = ignored or 3
    left = y != ignored
    with torch.no_grad():
        right = net(x).argmax(1) == y
        want = loss_func(net(x), y).item(), right[left].float().mean().item()
    for bs in (1, 7, 69, 1000):
        assert evaluate(net, (x, y), bs, loss_func) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.int32, torch.int8, torch.uint8])
def test_evaluate_takes_class_numbers_of_any_dtype(dtype):
    net, (x, y) = new_model(), rows(20)
    assert evaluate(net, (x, y.to(dtype))) == evaluate(net, (x, y))


@pytest.mark.parametrize('args, error, words', [
    ((rows(5)[0], rows(5)[1]), TypeError, 'pass the pair'),
    ((tuple(part.numpy() for part in rows(5)),), TypeError, 'torch.as_tensor'),
    (((rows(5)[0], rows(5)[1] + 10),), IndexError, 'but there are 10 classes'),
    ((rows(5), 0), ValueError, 'bs is 0')])
def test_evaluate_refuses(args, error, words):
    net = new_model()
    with pytest.raises(error, match=words):
        evaluate(net, *args)
    with pytest.raises(TypeError, match='model is a Tensor, not an nn.Module'):
        evaluate(rows(5)[0], rows(5))
    assert net.training and torch.is_grad_enabled()


@pytest.mark.parametrize('data', [[], (torch.zeros(0, 784), torch.zeros(0).long())])
def test_evaluate_refuses_nothing(data):
    with pytest.raises(ValueError, match='no minibatches|0 rows'):
        evaluate(new_model(), data)


# train_epoch

def test_train_epoch_needs_minibatches():
    net = new_model()
    with pytest.raises(ValueError, match='no minibatches'):
        train_epoch(net, [], PlainSGD(net.parameters(), .5))


@pytest.mark.parametrize('wrong', [rows(5), rows(5)[0]])
def test_train_epoch_is_not_given_the_pair(wrong):
    net = new_model()
    with pytest.raises(TypeError, match='minibatches.x, y, bs'):
        train_epoch(net, wrong, PlainSGD(net.parameters(), .5))


@pytest.mark.parametrize('params, lr, error, words', [
    ([torch.zeros(2)], float('nan'), ValueError, 'lr is nan'),
    ([torch.zeros(2)], -1, ValueError, 'lr is -1'), ([], .1, ValueError, 'model.parameters'),
    (torch.zeros(2), .1, ValueError, 'model.parameters'),
    (['w'], .1, ValueError, 'model.parameters')])
def test_plain_sgd_refuses(params, lr, error, words):
    with pytest.raises(error, match=words):
        PlainSGD(params, lr)


def test_train_epoch_is_the_bare_loop():
    data, lr = rows(500), .5
    net, bare = new_model(), new_model()
    train_epoch(net, minibatches(*data, 50, False), PlainSGD(net.parameters(), lr))
    for xb, yb in minibatches(*data, 50, False):
        F.cross_entropy(bare(xb), yb).backward()
        with torch.no_grad():
            for p in bare.parameters():
                p -= lr*p.grad
        bare.zero_grad()
    assert weights(net).equal(weights(bare))


def test_train_epoch_weighs_a_short_minibatch_by_its_rows():
    net, data = new_model(), rows(130)
    want = evaluate(net, data)[0]
    for size in (130, 50, 7):
        got = train_epoch(net, minibatches(*data, size), PlainSGD(net.parameters(), 1e-9))
        assert got == pytest.approx(want, abs=1e-5)


def test_train_epoch_ignores_old_gradients():
    net, data = new_model(), rows(130)
    F.cross_entropy(net(data[0]), data[1]).backward()
    quiet(net, data, epochs=1)
    assert weights(net).equal(weights_after(data))


class Marked(torch.autograd.Function):
    "Does nothing, and leaves in the record an object that can be counted."
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


def alive_now():
    gc.collect()
    kinds = [type(o) for o in gc.get_objects()]
    return sum(issubclass(k, torch.Tensor) or k.__name__ == 'MarkedBackward' for k in kinds)


def test_train_epoch_keeps_no_tensor_and_no_record_per_minibatch():
    "A running sum: as many tensors are alive at the thousandth minibatch as at the tenth."
    net, alive = new_model(), {}
    xb, yb = rows(5)

    def batches():
        for i in range(200):
            if i in (10, 199):
                alive[i] = alive_now()
            yield xb, yb
    train_epoch(net, batches(), PlainSGD(net.parameters(), .01),
                lambda logits, y: Marked.apply(F.cross_entropy(logits, y)))
    assert alive[199] == alive[10]


# fit

def test_fit_history():
    few = rows(130)
    net = new_model()
    history = quiet(net, few, few, epochs=2)
    assert isinstance(history, pd.DataFrame)
    assert list(history) == ['train_loss', 'valid_loss', 'valid_accuracy']
    assert (history.index.name, history.index.tolist()) == ('epoch', [1, 2])
    assert history.iloc[-1, 1:].tolist() == pytest.approx(evaluate(net, few), abs=1e-6)
    assert list(quiet(new_model(), few, epochs=1)) == ['train_loss']
    assert all(kind == 'float64' for kind in history.dtypes)


def test_fit_learns():
    train, valid = rows(2000), rows(500, seed=1)
    net = new_model()
    history = quiet(net, train, valid)
    assert history.valid_accuracy[3] > .95
    assert history.iloc[-1, 1:].tolist() == pytest.approx(evaluate(net, valid), abs=1e-6)
    assert history.train_loss.is_monotonic_decreasing


def test_fit_is_determined_by_its_seeds():
    few, state = rows(130), torch.get_rng_state()
    first = weights_after(few)
    assert first.equal(weights_after(few))
    assert not first.equal(weights_after(few, seed=1))
    state = torch.get_rng_state()
    quiet(new_model_with_state(state), few, few, epochs=2)
    assert state.equal(torch.get_rng_state())


def new_model_with_state(state):
    net = new_model()
    torch.set_rng_state(state)
    return net


def test_fit_looking_changes_nothing():
    few = rows(130)
    assert weights_after(few, epochs=2).equal(weights_after(few, valid=rows(40, 1), epochs=2))


@pytest.mark.parametrize('threads', [1, 2])
def test_fit_is_the_same_to_the_bit(threads, capsys):
    "With evaluation and a bar or without; large enough minibatches for two threads to share."
    torch.set_num_threads(threads)
    many = rows(3000)
    first = weights_after(many, bs=1500)
    for kw in ({}, dict(valid=many, progress=True), dict(valid=rows(40, 1))):
        assert weights_after(many, bs=1500, **kw).equal(first)


def test_fit_with_another_default_device():
    few = rows(130)
    want = weights_after(few)
    net = new_model()
    torch.set_default_device('meta')
    try:
        quiet(net, few, few, epochs=1)
    finally:
        torch.set_default_device('cpu')
    assert weights(net).equal(want)


def test_fit_looks_at_dropout_and_averages_without_a_trace():
    "BatchNorm and Dropout in training mode, for a single last row: on a copy, off the record."
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 9), nn.BatchNorm1d(9), nn.Dropout(), nn.Linear(9, 10))
    before, state = deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(ValueError, match='101 rows in minibatches of 50 leave one.*drop_last'):
        quiet(net, rows(101))
    assert all(p.equal(before[name]) for name, p in net.state_dict().items())
    assert torch.get_rng_state().equal(state) and net.training
    assert len(quiet(net, rows(101), epochs=1, bs=51)) == 1
    for bs, drop in ((50, True), (51, False)):
        assert len(quiet(net, DataLoader(TensorDataset(*rows(101)), bs, drop_last=drop))) == 3
    for alone in (DataLoader(TensorDataset(*rows(101)), 50), DataLoader(TensorDataset(*rows(9)), 1),
                  [*minibatches(*rows(101), 50)], (rows(1))):
        with pytest.raises(ValueError, match='leave one row'):
            quiet(net, alone)


class Stream(IterableDataset):
    def __iter__(self):
        return zip(*rows(20))


def test_fit_takes_loaders_of_every_kind():
    "A stream, whose length nobody knows; a sampler of minibatches; a collate function."
    few, picked = TensorDataset(*rows(20)), [[0, 1, 2], [3, 4]]
    for loader in (DataLoader(Stream(), 4), DataLoader(few, batch_sampler=picked),
                   DataLoader(few, 4, collate_fn=lambda rows: tuple(map(torch.stack, zip(*rows)))),
                   DataLoader(few, sampler=SubsetRandomSampler([1, 2, 3]), batch_size=3)):
        assert len(quiet(new_model(), loader, loader, epochs=1)) == 1


def test_fit_shuffles_anew_each_epoch_with_one_optimizer():
    made, seen = [], []

    def opt_func(*args, **kw):
        made.append(kw)
        return torch.optim.SGD(*args, **kw)

    def loss_func(logits, y):
        seen.append(y.tolist())
        return F.cross_entropy(logits, y)
    quiet(new_model(), rows(130), epochs=2, bs=130, opt_func=opt_func, loss_func=loss_func)
    assert made == [dict(lr=.5)]
    assert sorted(seen[0]) == sorted(seen[1]) and seen[0] != seen[1]


def test_fit_uses_what_it_is_given():
    assert not weights_after(lr=.01).equal(weights_after(opt_func=torch.optim.Adam, lr=.01))
    assert not weights_after().equal(weights_after(lr=.25))
    assert not weights_after().equal(weights_after(bs=65))
    assert not weights_after().equal(weights_after(loss_func=lambda z, y: 2*F.cross_entropy(z, y)))
    assert_close(weights_after(), weights_after(loss_func=cross_entropy), rtol=0, atol=1e-5)
    momentum = partial(torch.optim.SGD, momentum=0.)
    assert_close(weights_after(), weights_after(opt_func=momentum), rtol=0, atol=1e-6)


def test_fit_with_an_epoch_function_of_ones_own():
    seen = []

    def epoch_func(model, batches, optimizer, loss_func):
        seen.append((sum(len(yb) for _, yb in batches), type(optimizer), loss_func))
        return 1.5
    history = quiet(new_model(), rows(130), epochs=2, epoch_func=epoch_func)
    assert history.train_loss.tolist() == [1.5, 1.5]
    assert seen == [(130, PlainSGD, F.cross_entropy)]*2


def test_fit_modes():
    net, modes, few = new_model().eval(), [], rows(130)
    net.register_forward_hook(lambda net, *_: modes.append(net.training))
    quiet(net, few, few, epochs=2)
    assert [mode for mode, _ in itertools.groupby(modes)][-4:] == [True, False, True, False]
    assert net.training


@pytest.mark.parametrize('net', [nn.Linear(784, 10), nn.Sequential(
    nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
    nn.Linear(4*26*26, 10))], ids=['linear', 'convolution'])
def test_fit_takes_any_module(net):
    few = rows(130)
    assert len(quiet(net, few, few, epochs=2, lr=.05)) == 2


def test_fit_takes_a_dataloader():
    train, valid = rows(130), rows(40, 1)
    loader = DataLoader(TensorDataset(*train), batch_size=50)
    looked_at = DataLoader(TensorDataset(*valid), batch_size=7)
    net, other = new_model(), new_model()
    history = quiet(net, loader, looked_at, epochs=2)
    same = quiet(other, list(minibatches(*train, 50, False)), valid, epochs=2)
    assert weights(net).equal(weights(other))
    pd.testing.assert_frame_equal(history, same, rtol=0, atol=1e-5)


def test_fit_goes_through_a_shuffling_dataloader_each_epoch():
    loader = DataLoader(TensorDataset(*rows(130)), batch_size=50, shuffle=True)
    history = quiet(new_model(), loader, rows(40, 1), epochs=4)
    assert len(history) == 4 and history.train_loss[4] < history.train_loss[1]


X, Y = rows(20)


class Twice(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize('kw, error, words', [
    (dict(bs=0), ValueError, 'bs is 0'), (dict(bs=2.5), ValueError, 'bs is 2.5'),
    (dict(bs='5'), ValueError, "bs is '5'"), (dict(epochs=0), ValueError, 'epochs is 0'),
    (dict(epochs=-1), ValueError, 'epochs is -1'),
    (dict(epochs=True), ValueError, 'epochs is True'),
    (dict(lr=0), ValueError, 'lr is 0'), (dict(lr=-1), ValueError, 'lr is -1'),
    (dict(lr=float('nan')), ValueError, 'lr is nan'),
    (dict(lr=float('inf')), ValueError, 'lr is inf'),
    (dict(lr='1'), ValueError, "lr is '1'"),
    (dict(valid=(X, Y[:, None])), ValueError, 'valid: .*squeeze'),
    (dict(valid=(X[:0], Y[:0])), ValueError, 'valid: x'),
    (dict(valid=(X, Y[1:])), ValueError, 'valid: x'),
    (dict(valid=3), TypeError, 'valid is a int'), (dict(train=(X,)), TypeError, 'train is a tuple'),
    (dict(train=(X.numpy(), Y.numpy())), TypeError, 'torch.as_tensor'),
    (dict(train=iter([(X, Y)])), TypeError, 'again and again'),
    (dict(train=(X, Y + 10)), IndexError, '0 to 9'),
    (dict(valid=(X, Y - 1 - Y.min())), IndexError, '0 to 9'),
    (dict(loss_func=nn.CrossEntropyLoss), TypeError, 'CrossEntropyLoss'),
    (dict(opt_func=3), TypeError, 'opt_func'), (dict(loss_func=3), TypeError, 'loss_func is 3'),
    (dict(lr=1e308), ValueError, 'up to 3.4e.38'), (dict(lr=10**400), ValueError, 'lr is larger'),
    (dict(loss_func=nn.CrossEntropyLoss(reduction='none')), ValueError, "'none'"),
    (dict(opt_func=torch.optim.LBFGS), ValueError, 'epoch_func that calls optimizer.step.closure'),
    (dict(opt_func=partial(torch.optim.LBFGS, max_iter=3)), ValueError, 'epoch_func'),
    (dict(train=(X, Y.float())), TypeError, r'train: .*float32.*\.long'),
    (dict(train=(X, Y.float()), loss_func=nn.CrossEntropyLoss()), TypeError, r'\.long'),
    (dict(train=(X, Y.int())), TypeError, r'int32.*y\.long'),
    (dict(train=(X, Y + 300), loss_func=partial(F.cross_entropy, ignore_index=255)), IndexError,
     'the value 300|the value 309'),
    (dict(valid=(X, Y.float()), loss_func=F.mse_loss), TypeError, r'valid: .*\.long'),
    (dict(train=(X, [*'abcdefghijklmnopqrst'])), TypeError, 'pandas.factorize'),
    (dict(train=(pd.DataFrame(X.numpy()), Y)), TypeError, 'to_numpy'),
    (dict(train=(X.double(), Y)), ValueError, "can't take a row of x, torch.float64"),
    (dict(valid=(X[:, :9], Y)), ValueError, r"valid: .*\(1, 9\)"),
    (dict(train=X), TypeError, 'train is a Tensor'),
    (dict(train=[X, Y]), TypeError, 'a pair .x, y. is a tuple'),
    (dict(train=TensorDataset(X, Y)), TypeError, 'DataLoader.dataset, bs, shuffle=True'),
    (dict(valid=[]), ValueError, 'valid: there are no minibatches'),
    (dict(train=[(X, Y.float())]), TypeError, r'\.long'),
    (dict(train=DataLoader(TensorDataset(X, Y.float()), 5)), TypeError, r'\.long'),
    (dict(train=DataLoader(TensorDataset(X.double(), Y), 5)), ValueError, "can't take a row"),
    (dict(train=DataLoader(TensorDataset(X, Y, Y), 5)), TypeError, 'must be a pair'),
    (dict(valid=DataLoader(TensorDataset(X, Y + 10), 5)), IndexError, 'valid: target has')])
def test_fit_refuses_before_it_trains(kw, error, words):
    net = new_model()
    with pytest.raises(error, match=words):
        quiet(net, **dict(train=(X, Y)) | kw)
    assert weights(net).equal(weights(new_model()))


@pytest.mark.parametrize('net, error, words', [
    (new_model().requires_grad_(False), ValueError, 'requires_grad_'),
    (nn.ReLU(), ValueError, 'no parameter'), (Twice(784, 10), TypeError, 'returns a tuple'),
    (F.relu, TypeError, 'not an nn.Module')])
def test_fit_refuses_models(net, error, words):
    with pytest.raises(error, match=words):
        quiet(net, (X, Y), epochs=1)


@pytest.mark.parametrize('off', [torch.no_grad, torch.inference_mode])
def test_fit_needs_gradients(off):
    with off(), pytest.raises(ValueError, match='gradients are switched off'):
        quiet(new_model(), (X, Y), epochs=1)


def test_fit_trains_what_is_not_frozen():
    net = new_model()
    net.layers[0].requires_grad_(False)
    quiet(net, (X, Y), epochs=1)
    first, last = net.layers[0].weight, net.layers[2].weight
    assert first.equal(new_model().layers[0].weight)
    assert not last.equal(new_model().layers[2].weight)


def test_fit_lets_errors_through():
    with pytest.raises(ZeroDivisionError):
        quiet(new_model(), rows(20), loss_func=lambda z, y: 1/0)


# stopping

@pytest.mark.parametrize('at, done', [(1, 0), (3, 0), (4, 0), (5, 1), (7, 1), (8, 1), (99, 2)])
def test_ctrl_c_hands_back_the_finished_epochs(at, done):
    "A real SIGINT: in an epoch, in the look at the validation set, in the first epoch, never."
    calls, few = [], rows(130)

    def loss_func(logits, y):
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return F.cross_entropy(logits, y)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter('always')
            history = quiet(new_model(), few, few, epochs=2, loss_func=loss_func)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert list(history) == ['train_loss', 'valid_loss', 'valid_accuracy']
    assert (history.index.name, history.index.tolist()) == ('epoch', list(range(1, done + 1)))
    assert all(kind == 'float64' for kind in history.dtypes)
    assert [f'after {done} of 2 epochs' in str(note.message) for note in notes] == [True]*(at < 99)
    if done:
        whole = quiet(new_model(), few, few, epochs=2)
        pd.testing.assert_frame_equal(history, whole[:done])


# progress

class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('stream, progress, shown', [
    (Terminal, None, True), (Terminal, True, True), (Terminal, False, False),
    (io.StringIO, None, False), (io.StringIO, True, True), (io.StringIO, False, False)])
def test_a_bar_where_somebody_looks(stream, progress, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stderr', stream())
    fit(new_model(), rows(20), epochs=2, progress=progress)
    text = sys.stderr.getvalue()
    assert ('2/2' in text, bool(text)) == (shown, shown)
    assert capsys.readouterr().out == ''


# how much fit is

def test_a_default_fit_enters_at_most_twelve_functions():
    entered, few = set(), rows(130)

    def note(frame, event, _):
        module = frame.f_globals.get('__name__', '')
        if event == 'call' and module.startswith('mnist_mb'):
            entered.add((module, frame.f_code.co_qualname))
    net = new_model()
    sys.setprofile(note)
    try:
        fit(net, few, few)
    finally:
        sys.setprofile(None)
    assert ('mnist_mb.training', 'train_epoch') in entered
    assert len(entered) <= 12, sorted(entered)


def test_public_names():
    assert len(training.__all__) <= 12
    assert all(hasattr(training, name) for name in training.__all__)


@pytest.mark.slow
def test_fit_takes_no_longer_than_the_bare_loop():
    "Alternating, best of several; twice more before it counts as slower, on a busy machine."
    x, y = rows(5_000)

    def bare():
        net, order = new_model(), torch.randperm(len(x))
        for i in range(0, len(x), 50):
            s = order[i:i+50]
            F.cross_entropy(net(x[s]), y[s]).backward()
            with torch.no_grad():
                for layer in net.layers:
                    if hasattr(layer, 'weight'):
                        layer.weight -= layer.weight.grad*.5
                        layer.bias -= layer.bias.grad*.5
                        layer.weight.grad.zero_()
                        layer.bias.grad.zero_()
    ways = {'bare': bare, 'fit': lambda: quiet(new_model(), (x, y), epochs=1)}
    best = dict.fromkeys(ways, float('inf'))
    for _ in range(3):
        for _, (name, way) in itertools.product(range(5), ways.items()):
            start = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - start)
        if best['fit'] <= 1.05*best['bare']:
            break
    assert best['fit'] <= 1.05*best['bare'], best


# the picture

def test_plot_history():
    import matplotlib.pyplot as plt
    history = quiet(new_model(), rows(130), rows(40, 1), epochs=3)
    axes = plot_history(history)
    assert [ax.get_ylabel() for ax in axes] == ['loss (nats)', 'validation accuracy (%)']
    assert [ax.get_xlabel() for ax in axes] == ['epoch', 'epoch']
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ['train_loss', 'valid_loss']
    assert axes[0].lines[1].get_ydata().tolist() == history.valid_loss.tolist()
    assert axes[1].lines[0].get_ydata().tolist() == (100*history.valid_accuracy).tolist()
    assert axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]
    axes = plot_history(history[['train_loss']])
    assert (len(axes[0].lines), len(axes[1].lines)) == (1, 0)
    plt.close('all')
    for wrong in (None, [1.], pd.DataFrame({'loss': [1.]}), history[:0]):
        with pytest.raises(TypeError, match='that fit returns'):
            plot_history(wrong)
    assert not plt.get_fignums()


# the exercises: each slip is named

@pytest.fixture(scope='module')
def chapter(drawn):
    "The names of the chapter's exercises; their checks are on the page, folded."
    cells = json.loads((Path(__file__).parent.parent/'nbs/03_training.ipynb').read_text())['cells']
    sources = [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']
    start = next(i for i, source in enumerate(sources) if source.startswith('def train_loop'))
    imports = next(source for source in sources if 'from itertools' in source)
    names = vars(training) | {'new_model': new_model}
    names['x_train'], names['y_train'] = drawn[0]
    for source in [imports, *sources[start:]]:
        exec(source, names)
    return names


def loop(model, batches, lr, forget=True, part=slice(None), soft=False, **kw):
    for xb, yb in batches:
        if forget:
            model.zero_grad()
        logits = model(xb)
        F.cross_entropy(logits.softmax(1) if soft else logits, yb, **kw).backward()
        for p in list(model.parameters())[part]:
            p.data -= lr*p.grad


def late(model, batches, lr, forget):
    for xb, yb in batches:
        if forget:
            model.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
    PlainSGD(model.parameters(), lr).step()


def by_grad(model, batches, lr):
    params = list(model.parameters())
    for xb, yb in batches:
        loss = -model(xb).log_softmax(1)[range(len(yb)), yb].mean()
        for p, grad in zip(params, torch.autograd.grad(loss, params)):
            p.data = p.data - lr*grad


@pytest.mark.parametrize('answer, words', [
    (loop, 'right: '), (by_grad, 'right: '), (lambda *args: None, 'not solved yet'),
    (partial(loop, forget=False), 'pile up'), (lambda net, b, lr: loop(net, b, -lr), 'it climbs'),
    (lambda net, b, lr: loop(net, b, 1.), 'lr is missing'),
    (partial(late, forget=True), 'only the last loss'), (partial(late, forget=False), 'one step'),
    (partial(loop, part=slice(0, None, 2)), 'biases'),
    (partial(loop, part=slice(2, None)), 'last layer'),
    (partial(loop, reduction='sum'), 'is a sum'), (partial(loop, soft=True), 'not probabilities'),
    (lambda net, b, lr: loop(net, b, lr/3), 'the right one has'),
    (lambda *args: 1/0, 'ZeroDivision')])
def test_exercise_loop(chapter, answer, words):
    assert words in chapter['check_train_loop'](answer)


def pieced(scale, before=True, between=False, limit=None):
    def answer(net, xb, yb, size):
        if before:
            net.zero_grad()
        for x, y in minibatches(xb, yb, limit or size, shuffle=False):
            if between:
                net.zero_grad()
            (F.cross_entropy(net(x), y)*scale(len(x), len(xb))).backward()
        return [p.grad for p in net.parameters()]
    return answer


def at_the_end(net, xb, yb, size):
    net.zero_grad()
    F.cross_entropy(torch.cat([net(x) for x in xb.split(size)]), yb).backward()
    return [p.grad for p in net.parameters()]


def share(k, n):
    return k/n


@pytest.mark.parametrize('answer, words', [
    (pieced(share), 'right: '), (pieced(share, limit=3), 'right: '),
    (lambda *args: None, 'not solved'),
    (pieced(share, before=False), 'old gradients'), (pieced(lambda k, n: 1), 'a sum of means'),
    (pieced(lambda k, n: k), 'divide by the number'), (pieced(lambda k, n: 1/3), 'a mean of means'),
    (pieced(share, limit=10), '10 rows'), (at_the_end, '10 rows'),
    (pieced(share, between=True), 'forget once'),
    (pieced(lambda k, n: 1, between=True), 'last piece alone'),
    (lambda *args: 1/0, 'ZeroDivision'), (lambda *args: [], 'ends with'),
    (lambda *args: [torch.ones(3)], 'shape')])
def test_exercise_gradient(chapter, answer, words):
    assert words in chapter['check_gradient_in_parts'](answer)


def in_place(w, v, grad, lr, beta):
    v.mul_(beta).add_(grad)
    return w.sub_(v, alpha=lr), v


@pytest.mark.parametrize('answer, words', [
    (in_place, 'right: '), (lambda *args: None, 'not solved yet'),
    (lambda w, v, g, lr, b: (w + lr*(b*v + g), b*v + g), 'climbs'),
    (lambda w, v, g, lr, b: (w - lr*v, b*v + g), 'old v'),
    (lambda w, v, g, lr, b: (w - lr*g, g), 'no memory'),
    (lambda w, v, g, lr, b: (w - lr*g, b*v + g), 'along g'),
    (lambda w, v, g, lr, b: (w - lr*(b*v + g), v), 'returns the old v'),
    (lambda w, v, g, lr, b: (b*v + g, w - lr*(b*v + g)), 'v first'),
    (lambda w, v, g, lr, b: (w - (b*v + lr*g), b*v + lr*g), 'lr is in v'),
    (lambda w, v, g, lr, b: (w - lr*(v + g), v + g), 'nothing is forgotten'),
    (lambda w, v, g, lr, b: (w - lr*(b*v + (1 - b)*g), b*v + (1 - b)*g), '1 - beta'),
    (lambda w, v, g, lr, b: w - lr*v, 'the new w and the new v'),
    (lambda w, v, g, lr, b: (1, 2), 'shape'), (lambda *args: 1/0, 'ZeroDivision')])
def test_exercise_momentum(chapter, answer, words):
    assert words in chapter['check_momentum_step'](answer)


# the figures of the source notes

@pytest.mark.mnist
def test_before_the_first_step(mnist, capsys):
    (x, y), *_ = mnist
    preds = new_model()(x[:50])
    guesses, labels = (''.join(map(str, t.tolist())) for t in (preds.argmax(1), y[:50]))
    assert guesses == '39385939395399399587953895955935975799393538359595'
    assert labels == '50419213143536172869409112432738690560761879398593'
    first = -preds.log_softmax(1)[range(3), y[:3]]
    assert_close(first, torch.tensor([2.20, 2.37, 2.36]), rtol=0, atol=.006)
    report(F.cross_entropy(preds, y[:50]), preds, y[:50])
    assert capsys.readouterr().out == '2.30, 0.08\n'


@pytest.mark.mnist
@pytest.mark.parametrize('lr, predicted, measured', [
    (.01, .0040, .0040), (.1, .0405, .0377), (.5, .2024, .1377)])
def test_the_fall_of_the_first_step(mnist, lr, predicted, measured):
    x, y = (part[:50] for part in mnist[0])
    net = new_model()
    before = F.cross_entropy(net(x), y)
    before.backward()
    norm = sum(p.grad.square().sum() for p in net.parameters()).item()
    assert lr*norm == pytest.approx(predicted, abs=1e-4)
    PlainSGD(net.parameters(), lr).step()
    assert (before - F.cross_entropy(net(x), y)).item() == pytest.approx(measured, abs=1e-4)


@pytest.mark.mnist
def test_three_epochs_in_the_order_of_the_file(mnist):
    "With two threads 0.12/0.98, 0.12/0.94, 0.08/0.96; other arithmetic changes the last digits."
    torch.set_num_threads(2)
    (x, y), valid, _ = mnist
    net, accs, last = new_model(), [], []
    for _ in range(3):
        optimizer = PlainSGD(net.parameters(), .5)
        train_epoch(net, minibatches(x[:-50], y[:-50], 50, False), optimizer)
        preds = net(x[-50:])
        loss = F.cross_entropy(preds, y[-50:])
        last += [loss.item(), accuracy(preds, y[-50:]).item()]
        train_epoch(net, [(x[-50:], y[-50:])], optimizer)
        accs.append(evaluate(net, valid)[1])
    assert last == pytest.approx([.12, .98, .12, .94, .08, .96], abs=.045)
    assert accs == pytest.approx([.9476, .9565, .9546], abs=.005)


@pytest.mark.mnist
@pytest.mark.slow
def test_shuffled_five_seeds(mnist):
    train, valid, _ = mnist
    accs = []
    for seed in range(5):
        torch.manual_seed(seed)
        accs.append(quiet(Model(784, 50, 10), train, valid, seed=seed).valid_accuracy[3])
    assert all(.958 < acc < .973 for acc in accs), accs
    assert sum(accs)/5 == pytest.approx(.9655, abs=.003)


@pytest.mark.mnist
@pytest.mark.slow
@pytest.mark.parametrize('lr, low, high', [
    (.01, .85, .89), (.1, .92, .945), (.5, .945, .965), (5., .05, .2)])
def test_one_epoch_at_other_rates(mnist, lr, low, high):
    train, valid, _ = mnist
    assert low < quiet(new_model(), train, valid, epochs=1, lr=lr).valid_accuracy[1] < high


@pytest.mark.mnist
@pytest.mark.slow
@pytest.mark.parametrize('mistake', ['bytes', 'never forgets', 'sorted'])
def test_one_thing_wrong(mnist, mistake):
    "Nothing is learned: pixels from 0 to 255, gradients never zeroed, minibatches sorted by label."
    (x, y), valid, _ = mnist

    class Forgetless(PlainSGD):
        def zero_grad(self):
            pass
    train, opt_func = (x, y), PlainSGD
    if mistake == 'bytes':
        train, valid = (256*x, y), (256*valid[0], valid[1])
    if mistake == 'never forgets':
        opt_func = Forgetless
    if mistake == 'sorted':
        order = y.argsort(stable=True)
        train = list(minibatches(x[order], y[order], 50, False))
    acc = quiet(new_model(), train, valid, epochs=1, opt_func=opt_func).valid_accuracy[1]
    assert acc < .3


def test_a_stopped_fit_returns_the_finished_epochs():
    "Ctrl+C in the second epoch: the first one's row, a warning, and the weights as they are."
    x, y = torch.rand(100, 784), torch.arange(100) % 10
    calls = []

    def stopping(logits, target):
        calls.append(1)
        if len(calls) == 7:  # five minibatches per epoch
            raise KeyboardInterrupt
        return F.cross_entropy(logits, target)
    torch.manual_seed(0)
    model = Model(784, 5, 10)
    before = model.layers[0].bias.clone()
    with pytest.warns(UserWarning, match='interrupted after 1 of 3 epochs'):
        history = fit(model, (x, y), bs=20, loss_func=stopping, progress=False)
    assert history.index.tolist() == [1] and not before.equal(model.layers[0].bias)
