"""Training: what users see of the model, the optimizer, minibatches, evaluate, train_epoch, fit."""
import io
import itertools
import signal
import sys
import weakref
from copy import deepcopy
from functools import partial

import matplotlib
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from mnist_mb.training import (Model, PlainSGD, accuracy, eval_mode, evaluate, fit, minibatches,
                               plot_history, report, train_epoch)

matplotlib.use('Agg')
quiet = partial(fit, progress=False)


def rows(n, seed=0):
    "n random rows with labels: the pixel of a row's class is bright."
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(10, (n,), generator=generator)
    return torch.rand(n, 784, generator=generator)/4 + F.one_hot(y, 784), y


def loader(data, *args, **kw):
    return DataLoader(TensorDataset(*data), *args, **kw)


def new_model():
    torch.manual_seed(1)
    return Model(784, 50, 10)


def weights(net):
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


def weights_after(*data, **kw):
    net = new_model()
    quiet(net, *data, **dict(epochs=2) | kw)
    return weights(net)


def by_hand(data, epochs=2, bs=50, lr=0.5, seed=0):
    "The bare loop, with a new order per epoch."
    net, (x, y), order = new_model(), data, torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=order).split(bs):
            F.cross_entropy(net(x[chosen]), y[chosen]).backward()
            with torch.no_grad():
                for p in net.parameters():
                    p -= lr*p.grad
            net.zero_grad()
    return weights(net)


# the model, accuracy, report

def two_formulas(x, w1, b1, w2, b2):
    return (x @ w1.T + b1).clamp(min=0) @ w2.T + b2


def test_model_starts_as_the_notes_do_and_is_the_two_formulas():
    net, (x, _) = new_model(), rows(7)
    torch.manual_seed(1)
    first, second = nn.Linear(784, 50), nn.Linear(50, 10)
    for p, q in zip(net.parameters(), [*first.parameters(), *second.parameters()], strict=True):
        assert p.equal(q)
    assert_close(net(x), two_formulas(x, *net.parameters()))


def test_weights_that_version_0_2_0_saved_still_load():
    shapes = {'layers.0.weight': (50, 784), 'layers.0.bias': (50,),
              'layers.2.weight': (10, 50), 'layers.2.bias': (10,)}
    saved = {name: torch.randn(shape) for name, shape in shapes.items()}
    net, (x, _) = new_model(), rows(7)
    net.load_state_dict(saved)
    assert_close(net(x), two_formulas(x, *saved.values()))


def test_accuracy_counts_and_report_prints_two_decimals(capsys):
    for wrong in range(4):
        target = torch.tensor([0, 1, 2, 3])
        target[:wrong] = (target[:wrong] + 1) % 4
        got = accuracy(torch.eye(4), target)
        assert (got.item(), got.shape, got.dtype) == (1 - wrong/4, (), torch.float32)
    report(torch.tensor(2.), torch.tensor([[.1, .9], [.8, .2], [.3, .7]]), torch.tensor([1, 0, 0]))
    assert capsys.readouterr().out == '2.00, 0.67\n'


# the optimizer

def test_plain_sgd_is_torch_sgd():
    ours, theirs = (weights_after(rows(500), opt_func=optimizer, lr=0.3)
                    for optimizer in (PlainSGD, torch.optim.SGD))
    assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_plain_sgd_step_by_hand():
    w, idle = nn.Parameter(torch.tensor([1., -2.])), nn.Parameter(torch.tensor([3.]))
    optimizer = PlainSGD(iter([w, idle]), lr=.5)
    w.grad = torch.tensor([2., 4.])
    optimizer.step()
    assert (w.tolist(), idle.tolist()) == ([0., -4.], [3.]) and w.is_leaf
    optimizer.zero_grad()
    assert w.grad is None


# minibatches

@pytest.mark.parametrize('shuffle', [True, False])
def test_minibatches_have_all_rows_with_their_labels(shuffle):
    for n, bs in itertools.product((1, 2, 7, 50, 101), (1, 2, 3, 7, 50, 1000)):
        x, y = torch.arange(n*6.).reshape(n, 2, 3), torch.arange(n)
        batches = list(minibatches(x, y, bs, shuffle))
        assert [len(yb) for _, yb in batches] == [bs]*(n//bs) + [n % bs]*(n % bs > 0)
        xs, ys = map(torch.cat, zip(*batches))
        assert xs.equal(x[ys]) and ys.sort().values.equal(y)
        assert shuffle or ys.equal(y)


def test_the_order_of_minibatches():
    "Another one each time; from the generator if there is one, else from PyTorch's global one."
    def order(generator=None):
        batches = minibatches(torch.zeros(100, 1), torch.arange(100), 7, generator=generator)
        return torch.cat([yb for _, yb in batches]).tolist()
    torch.manual_seed(5)
    first, second = order(), order()
    torch.manual_seed(5)
    assert order() == first != second
    before = torch.get_rng_state()
    one, same, other = (torch.Generator().manual_seed(seed) for seed in (3, 3, 4))
    first, second = order(one), order(one)
    assert order(same) == first not in (second, order(other))
    assert before.equal(torch.get_rng_state())


# evaluate

class Noisy(nn.Sequential):
    "Dropout and batch normalization, of which the latter is to stay as it is."
    def __init__(self):
        super().__init__(nn.Dropout(), nn.BatchNorm1d(784), nn.Linear(784, 10))
        self[1].eval()

    def modes(self):
        return [part.training for part in self.modules()]


def test_each_part_of_a_model_gets_its_mode_back():
    net = Noisy()
    with pytest.raises(KeyError), eval_mode(net):
        assert not any(net.modes())
        raise KeyError
    assert net.modes() == [True, True, False, True]
    evaluate(net, rows(70))
    assert net.modes() == [True, True, False, True]


LOSSES = [F.cross_entropy, lambda z, y: 2*F.cross_entropy(z, y), nn.MultiMarginLoss(),
          nn.CrossEntropyLoss(torch.arange(10.)), nn.CrossEntropyLoss(reduction='sum')]


@pytest.mark.parametrize('loss_func', LOSSES, ids=range(len(LOSSES)))
def test_evaluate_is_the_same_for_minibatches_of_any_size(loss_func):
    net, (x, y) = Noisy(), rows(70)
    with eval_mode(net), torch.no_grad():
        want = loss_func(net(x), y).item(), (net(x).argmax(1) == y).float().mean().item()
    for bs in (1, 7, 69, 1000):
        for got in (evaluate(net, (x, y), bs, loss_func),
                    evaluate(net, loader((x, y), bs), loss_func=loss_func),
                    evaluate(net, [*minibatches(x, y, bs)], loss_func=loss_func)):
            assert got == pytest.approx(want, rel=1e-5)
            assert list(map(type, got)) == [float, float]


def test_evaluate_leaves_no_trace():
    "No gradients and no random number; `bs` rows at a time."
    net, seen, state = new_model(), [], torch.get_rng_state()
    net.register_forward_hook(lambda net, _, out: seen.append((out.requires_grad, len(out))))
    evaluate(net, rows(7), bs=3)
    assert seen == [(False, 3), (False, 3), (False, 1)]
    assert torch.is_grad_enabled() and state.equal(torch.get_rng_state())


# train_epoch

def test_train_epoch_weighs_a_short_minibatch_by_its_rows():
    net, data = new_model(), rows(130)
    F.cross_entropy(net(data[0]), data[1]).backward()  # which is not to count
    want = evaluate(net, data)[0]
    for size in (130, 50, 7):
        got = train_epoch(net, minibatches(*data, size), PlainSGD(net.parameters(), 1e-9))
        assert got == pytest.approx(want, abs=1e-5) and type(got) is float


class Stream(IterableDataset):
    def __iter__(self):
        return zip(*rows(20))


def test_memory_is_constant_over_a_stream():
    "Of what each minibatch brings, and of its record of operations, the last is left."
    class Hook:
        def __call__(self, grad):
            pass
    alive, most = weakref.WeakSet(), []

    def loss_func(logits, y):
        loss, hook = F.cross_entropy(logits, y), Hook()
        loss.register_hook(hook)  # lives as long as the record
        alive.update([hook, y, logits])
        most.append(len(alive))
        return loss
    quiet(new_model(), DataLoader(Stream(), 1), epochs=2, loss_func=loss_func)
    assert len(most) == 40 and max(most) <= 6


# fit

def test_the_table_of_fit():
    few, net = rows(130), new_model()
    history = quiet(net, few, few, epochs=2)
    assert list(history) == ['train_loss', 'valid_loss', 'valid_accuracy']
    assert (history.index.name, history.index.tolist()) == ('epoch', [1, 2])
    assert history.loc[2].tolist()[1:] == pytest.approx(evaluate(net, few), abs=1e-6)
    alone, none = quiet(new_model(), few, epochs=2), quiet(new_model(), few, few, epochs=0)
    assert alone.train_loss.equals(history.train_loss) and list(alone) == ['train_loss']
    assert (list(none), len(none), none.index.name) == (list(history), 0, 'epoch')
    assert {str(kind) for table in (history, alone, none) for kind in table.dtypes} == {'float64'}


@pytest.mark.parametrize('threads, kw', [
    (1, {}), (1, dict(seed=1)), (1, dict(epochs=1)), (2, dict(bs=1500, lr=0.25))])
def test_fit_is_the_bare_loop_to_the_bit(threads, kw):
    "With a validation set or without, with a bar or without, wherever new tensors are made."
    torch.set_num_threads(threads)
    data, valid, net = rows(3_020), rows(40, 1), new_model()
    want = by_hand(data, **kw)
    assert weights_after(data, **kw).equal(want)
    try:
        torch.set_default_device('meta')
        fit(net, data, valid, **dict(epochs=2) | kw)
    finally:
        torch.set_default_device('cpu')
    assert weights(net).equal(want)


def test_fit_does_not_touch_the_global_generator():
    net, state = new_model(), torch.get_rng_state()
    quiet(net, rows(130), loader(rows(40), 7), epochs=0)
    quiet(net, rows(130), rows(40))
    assert state.equal(torch.get_rng_state())


def test_fit_uses_what_it_is_given():
    made, seen, net = [], [], new_model()

    def opt_func(params, **kw):
        made.append((len(list(params)), kw))
        return 'optimizer'

    def epoch_func(model, batches, *others):
        seen.append((model, sum(len(yb) for _, yb in batches), *others))
        return torch.tensor(1.5)
    history = quiet(net, rows(130), epochs=2, lr=7, loss_func=F.mse_loss, opt_func=opt_func,
                    epoch_func=epoch_func)
    assert history.train_loss.tolist() == [1.5, 1.5] and history.train_loss.dtype == 'float64'
    assert made == [(4, dict(lr=7))] and seen == [(net, 130, 'optimizer', F.mse_loss)]*2
    doubled = weights_after(rows(130), loss_func=lambda z, y: 2*F.cross_entropy(z, y), lr=0.25)
    assert_close(doubled, weights_after(rows(130)), rtol=0, atol=1e-6)


def test_fit_trains_with_dropout_and_judges_without():
    net, modes, few = new_model().eval(), [], rows(130)
    net.register_forward_hook(lambda net, *_: modes.append(net.training))
    quiet(net, few, few, epochs=2)
    assert modes == [False] + 2*[True, True, True, False] and net.training


# fit with a DataLoader

@pytest.mark.parametrize('own', [True, False])
def test_a_shuffling_loader_gives_the_same_minibatches_with_a_validation_set(own):
    "From a generator of its own or the global one, which a loader to judge draws from, too."
    def orders(*valid):
        seen, net, generator = [], new_model(), torch.Generator().manual_seed(3) if own else None

        def epoch_func(model, batches, optimizer, loss_func):
            seen.append([yb.tolist() for _, yb in batches])
            return 0
        train = loader(rows(130), 50, shuffle=True, generator=generator)
        quiet(net, train, *valid, epochs=2, epoch_func=epoch_func)
        return seen
    first, second = orders()
    assert [first, second] == orders(rows(40, 1)) and first != second
    assert orders(loader(rows(40, 1), 7))[:1 + own] == [first, second][:1 + own]


@pytest.mark.parametrize('data', [
    loader(rows(20), 8), DataLoader(Stream(), 4),
    loader(rows(20), batch_sampler=[[0, 1, 2], [3, 4]]),
    loader(rows(20), 4, collate_fn=lambda pairs: [torch.stack(part) for part in zip(*pairs)]),
    loader(rows(20), 4, num_workers=1, persistent_workers=True)],
    ids=['plain', 'stream', 'sampler', 'collate', 'worker'])
def test_fit_takes_loaders_of_every_kind(data):
    assert weights_after(data, data).equal(weights_after([*data], [*data]))


# after each epoch

def test_after_epoch_sees_all_and_ends_the_training():
    calls, net = [], new_model()

    def after_epoch(history, model, optimizer):
        calls.append((history.copy(), model, type(optimizer)))
        return len(history) == 3
    history = quiet(net, rows(130), rows(40, 1), epochs=9, after_epoch=after_epoch)
    assert [(len(table), *others) for table, *others in calls] == [
        (n, net, PlainSGD) for n in (1, 2, 3)]
    assert calls[-1][0].equals(history)
    assert weights(net).equal(weights_after(rows(130), epochs=3))


def test_early_stopping_with_the_best_weights():
    "At a rate at which the validation loss soon rises."
    best, net, valid = {}, new_model(), rows(200, 1)

    def after_epoch(history, model, optimizer):
        if history.valid_loss.idxmin() == len(history):
            best.update(deepcopy(model.state_dict()))
        return len(history) - history.valid_loss.idxmin() == 3
    history = quiet(net, rows(30), valid, epochs=60, lr=2., after_epoch=after_epoch)
    assert len(history) - 3 == history.valid_loss.idxmin() < 57
    net.load_state_dict(best)
    assert evaluate(net, valid)[0] == pytest.approx(history.valid_loss.min(), abs=1e-6)


def test_a_schedule_of_pytorch():
    schedules, few = [], rows(130)

    def opt_func(params, lr):
        optimizer = torch.optim.SGD(params, lr)
        schedules.append(torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.))
        return optimizer
    got = weights_after(few, epochs=4, opt_func=opt_func,
                        after_epoch=lambda *_: schedules[0].step())
    assert got.equal(weights_after(few, epochs=1))


def interrupt(*_):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize('busy_with', ['loss_func', 'epoch_func', 'after_epoch'])
def test_ctrl_c_passes_through(busy_with):
    "Without a word of ours; if it comes while the validation set is judged, modes come back."
    net, handler = Noisy(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            quiet(net, rows(130), rows(40), **{busy_with: interrupt})
    finally:
        signal.signal(signal.SIGINT, handler)
    assert not hasattr(caught.value, '__notes__') and torch.is_grad_enabled()
    assert busy_with != 'loss_func' or net.modes() == [True, True, False, True]


# what is shown

class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize('stream, progress, shown', [
    (Terminal, None, True), (Terminal, False, False), (io.StringIO, None, False),
    (io.StringIO, True, True)])
def test_a_bar_where_somebody_looks(stream, progress, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stderr', stream())
    fit(new_model(), rows(20), epochs=2, progress=progress)
    text = sys.stderr.getvalue()
    assert ('2/2' in text, bool(text)) == (shown, shown)
    assert capsys.readouterr().out == ''


def test_plot_history():
    history = quiet(new_model(), rows(130), rows(40, 1), epochs=3)
    axes = plot_history(history)
    assert [ax.get_ylabel() for ax in axes] == ['loss (nats)', 'validation accuracy (%)']
    assert [ax.get_xlabel() for ax in axes] == ['epoch', 'epoch']
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ['train_loss', 'valid_loss']
    assert [list(line.get_ydata()) for ax in axes for line in ax.lines] == [
        [*history.train_loss], [*history.valid_loss], [*100*history.valid_accuracy]]
    assert axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]
    assert all(tick == int(tick) for ax in axes for tick in ax.get_xticks())
    axes = plot_history(history[['train_loss']])
    assert (len(axes[0].lines), len(axes[1].lines)) == (1, 0)
    matplotlib.pyplot.close('all')


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
def test_three_epochs_in_the_order_of_the_file(mnist):
    "As two threads print them; one thread, or another machine, changes the last digit."
    (x, y), valid, _ = mnist
    net, last = new_model(), []
    for _ in range(3):
        optimizer = PlainSGD(net.parameters(), .5)
        train_epoch(net, minibatches(x[:-50], y[:-50], 50, False), optimizer)
        last += evaluate(net, (x[-50:], y[-50:]))
        train_epoch(net, [(x[-50:], y[-50:])], optimizer)
    assert last == pytest.approx([.12, .98, .12, .94, .08, .96], abs=.045)
    assert evaluate(net, valid)[1] == pytest.approx(.9546, abs=.005)
