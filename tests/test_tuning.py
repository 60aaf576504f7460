"""Chapter 05: the learning-rate range test and its plot."""
from copy import deepcopy
from math import inf, isfinite, nan

import matplotlib
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from mnist_mb.training import PlainSGD, fit
from mnist_mb.tuning import lr_find, plot_lr_find

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture(scope='module')
def few():
    g = torch.Generator().manual_seed(0)
    return torch.rand(130, 20, generator=g), torch.randint(4, (130,), generator=g)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Linear(20, 4)


def test_rates_grow_by_equal_factors_from_low_to_high(net, few):
    table = lr_find(net, few, 0.01, 1, steps=5)
    assert list(table.index) == pytest.approx([10**-2, 10**-1.5, 10**-1, 10**-0.5, 1])
    assert (list(table), table.index.name) == (['loss'], 'lr')
    assert len(lr_find(net, few)) == 200


@pytest.mark.parametrize('opt_func', [torch.optim.SGD, PlainSGD])
def test_where_the_rate_stays_it_is_an_epoch_of_fit(net, few, opt_func):
    table = lr_find(net, few, 0.5, 0.5 + 1e-9, steps=2, bs=65, opt_func=opt_func)
    moved = fit(deepcopy(net), few, epochs=1, bs=65, lr=0.5, progress=False)
    assert table.loss.mean() == pytest.approx(moved.train_loss[1], abs=1e-5)
    first = lr_find(net, few, 0.5, 5, steps=2, bs=130).loss.iloc[0]
    assert first == pytest.approx(nn.functional.cross_entropy(net(few[0]), few[1]).item(), abs=1e-5)


def test_plain_sgd_takes_the_rates_too(net, few):
    args = dict(low=1e-3, high=10, steps=30)
    one, other = lr_find(net, few, **args), lr_find(net, few, opt_func=PlainSGD, **args)
    pd.testing.assert_frame_equal(one, other, rtol=1e-3)


def test_every_group_takes_the_rate(net, few):
    made = []

    def opt_func(params, lr):
        made.append(torch.optim.Adam([{'params': [p]} for p in params], lr=lr))
        return made[0]

    lr_find(net, few, 0.1, 0.4, steps=3, opt_func=opt_func)
    assert [group['lr'] for group in made[0].param_groups] == pytest.approx([0.4, 0.4])
    assert len(made) == 1


def test_model_modes_and_random_numbers_stay(few):
    net = nn.Sequential(nn.Linear(20, 9), nn.BatchNorm1d(9), nn.Dropout(), nn.Linear(9, 4))
    net[2].eval()
    before, state = deepcopy(net.state_dict()), torch.get_rng_state()
    once, again = (lr_find(net, few, steps=20) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(dict(net.state_dict()), dict(before), rtol=0, atol=0)
    assert [part.training for part in net.modules()] == [True, True, True, False, True]
    assert all(p.grad is None for p in net.parameters())
    pd.testing.assert_frame_equal(once, again, rtol=1e-5)


def dealt(net, train, **kw):
    "The class numbers of the minibatches that the loss has seen."
    rows = []

    def loss_func(out, y):
        rows.append(y.tolist())
        return out.mean()

    lr_find(net, train, steps=6, loss_func=loss_func, **kw)
    return rows


def test_each_epoch_is_dealt_anew_from_the_seed(net, few):
    rows = dealt(net, few)
    assert [len(y) for y in rows] == [50, 50, 30]*2
    assert sorted(sum(rows[:3], [])) == sorted(few[1].tolist())
    assert rows == dealt(net, few) and rows != dealt(net, few, seed=1) and rows[0] != rows[3]


def test_minibatches_do_as_well(net, few):
    loader = DataLoader(TensorDataset(*few), batch_size=50, shuffle=True)
    state = torch.get_rng_state()
    assert [len(y) for y in dealt(net, loader)] == [50, 50, 30]*2
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match='no minibatches'):
        lr_find(net, [])


def test_the_table_ends_before_the_loss_is_no_number(net, few):
    wild = lr_find(net, few, 1, 1e38, 60, loss_func=lambda out, y: (out**2).mean())
    assert 2 < len(wild) < 60 and all(map(isfinite, wild.loss))


@pytest.mark.parametrize('bad, why', [
    (dict(low=0), 'low is 0'), (dict(low=1, high=1), 'high is 1'), (dict(high=inf), 'high is inf'),
    (dict(low='1'), "low is '1'"), (dict(low=nan), 'low is nan'), (dict(steps=1), 'steps is 1'),
    (dict(bs=0), 'bs is 0'), (dict(high=1e39), 'up to 3.4e.38'),
    (dict(steps=2.5), 'steps is 2.5'), (dict(low=2, high=1), 'low is 2')])
def test_refuses_arguments(net, few, bad, why):
    with pytest.raises(ValueError, match=why):
        lr_find(net, few, **bad)


def test_refuses_data(net, few):
    x, y = few
    with pytest.raises(ValueError, match='first step is nan'):
        lr_find(net, (x*nan, y))
    with pytest.raises(ValueError, match='at least one'):
        lr_find(net, (x[:0], y[:0]))
    with pytest.raises(TypeError, match='as_tensor'):
        lr_find(net, (x.numpy(), y.numpy()))
    with pytest.raises(TypeError, match='train'):
        lr_find(net, iter([few]))


def test_plot(net, few):
    table = lr_find(net, few, steps=30)
    ax = plot_lr_find(table, label='a', style='--')
    line, = ax.lines
    assert line.get_xdata().tolist() == list(table.index) and ax.get_xscale() == 'log'
    mean, weight = [], 0.  # the running mean by hand
    for k, loss in enumerate(table.loss):
        old = mean[-1]*weight if mean else 0
        weight_new = 0.9*weight + 1
        mean.append((0.9*old + loss)/weight_new)
        weight = weight_new
    assert line.get_ydata().tolist() == pytest.approx(mean)
    assert (line.get_label(), line.get_linestyle()) == ('a', '--')
    assert (ax.get_xlabel(), ax.get_ylim()[0]) == ('learning rate', 0)
    assert 'running mean' in ax.get_ylabel()
    assert plot_lr_find(table, ax) is ax and len(ax.lines) == 2
    plt.close('all')
    for wrong in (None, table.rename(columns={'loss': 'x'}), table[:0]):
        with pytest.raises(TypeError, match='that lr_find returns'):
            plot_lr_find(wrong)
    with pytest.raises(ValueError):
        plot_lr_find(table, style='?')
    assert not plt.get_fignums()


@pytest.mark.slow
@pytest.mark.mnist
def test_longer_tests_point_lower(mnist):
    from mnist_mb.training import Model
    torch.manual_seed(0)
    model, train = Model(784, 50, 10), mnist[0]
    lowest = [lr_find(model, train, steps=steps).loss.ewm(alpha=0.1).mean().idxmin()
              for steps in (50, 1000)]
    assert lowest[0] > 2*lowest[1]
