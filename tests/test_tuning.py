"""Chapter 05: the learning-rate range test and its plot."""
from copy import deepcopy
from math import isfinite, nan

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

approx = pytest.approx


@pytest.fixture(scope='module')
def few():
    g = torch.Generator().manual_seed(0)
    return torch.rand(130, 20, generator=g), torch.randint(4, (130,), generator=g)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Linear(20, 4)


def test_rates_grow_by_equal_factors_in_every_group(net, few):
    made = []

    def opt_func(params, lr):
        made.append(torch.optim.Adam([{'params': [p]} for p in params], lr=lr))
        return made[0]

    table = lr_find(net, few, 0.01, 1, steps=5, opt_func=opt_func)
    assert list(table.index) == approx([10**-2, 10**-1.5, 10**-1, 10**-0.5, 1])
    assert (list(table), table.index.name) == (['loss'], 'lr')
    assert [group['lr'] for group in made[0].param_groups] == approx([1, 1])
    assert len(made) == 1 and len(lr_find(net, few, high=0.01)) == 200


@pytest.mark.parametrize('opt_func', [torch.optim.SGD, PlainSGD])
def test_where_the_rate_stays_it_is_an_epoch_of_fit(net, few, opt_func):
    table = lr_find(net, few, 0.5, 0.5 + 1e-9, steps=2, bs=65, opt_func=opt_func)
    moved = fit(deepcopy(net), few, epochs=1, bs=65, lr=0.5, progress=False)
    assert table.loss.mean() == approx(moved.train_loss[1], abs=1e-5)
    first = nn.functional.cross_entropy(net(few[0]), few[1]).item()
    table = lr_find(net, few, 0.5, 5, steps=2, bs=130, opt_func=opt_func)
    assert table.loss.iloc[0] == approx(first, abs=1e-5)


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


def test_epoch_after_epoch_of_a_pair_or_of_minibatches(net, few):
    def dealt(train, **kw):
        "The class numbers of the minibatches that the loss has seen."
        rows = []

        def loss_func(out, y):
            rows.append(y.tolist())
            return out.mean()

        lr_find(net, train, steps=6, loss_func=loss_func, **kw)
        return rows

    rows = dealt(few)
    assert [len(y) for y in rows] == [50, 50, 30]*2
    assert sorted(sum(rows[:3], [])) == sorted(few[1].tolist())
    assert rows == dealt(few) and rows != dealt(few, seed=1) and rows[0] != rows[3]
    state = torch.get_rng_state()
    loader = DataLoader(TensorDataset(*few), batch_size=50, shuffle=True)
    assert [len(y) for y in dealt(loader)] == [50, 50, 30]*2
    assert torch.equal(torch.get_rng_state(), state)


def squares(out, y):
    return (out**2).mean()


def test_groups_keep_the_ratio_of_their_rates(net, few):
    made = []

    def opt_func(params, lr):
        w, b = params
        made.append(torch.optim.SGD([{'params': [w]}, {'params': [b], 'lr': lr/10}], lr=lr))
        return made[0]

    lr_find(net, few, 0.01, 1, steps=5, opt_func=opt_func)
    assert [group['lr'] for group in made[0].param_groups] == approx([1, 0.1])


def test_it_ends_where_it_diverges_and_says_so(net, few):
    whole = lr_find(net, few, 1e-4, 1e-3, 60)
    assert (len(whole), whole.attrs['ended']) == (60, 'after all steps')
    wild = lr_find(net, few, 1e-3, 1e3, 300, loss_func=squares)
    assert 20 < len(wild) < 290 and wild.attrs['ended'].endswith('four times its lowest')
    means = wild.loss.rolling(10).mean()
    assert means.iloc[-1] > 4*means.min() and means.iloc[-2] <= 4*means.iloc[:-1].min()


def test_one_wild_minibatch_is_no_divergence(few):
    "As for a trained network, whose losses are near 0, and some are not."
    losses = iter([0.1]*20 + [1.] + [0.1]*20)
    model = nn.Linear(20, 4)
    table = lr_find(model, few, 1e-6, 1e-5, 41,
                    loss_func=lambda out, y: 0*out.sum() + next(losses))
    assert len(table) == 41 and table.attrs['ended'] == 'after all steps'


def test_a_negative_loss_may_fall(net, few):
    table = lr_find(net, few, 1e-6, 1e-3, 40, loss_func=lambda out, y: out.mean() - 5)
    assert len(table) == 40


def test_a_loss_that_is_no_number(net, few):
    wild = lr_find(net, few, 1, 1e38, 60, loss_func=lambda out, y: -squares(out, y))
    assert 2 < len(wild) < 60 and all(map(isfinite, wild.loss))
    assert 'the loss was' in wild.attrs['ended']
    with pytest.raises(ValueError, match='step 1: the loss is nan, .* untouched model'):
        lr_find(net, (few[0]*nan, few[1]))
    batches = [(few[0][:50], few[1][:50])]*30
    batches[20] = (few[0][:50]*nan, few[1][:50])  # no rate is to blame
    with pytest.raises(ValueError, match='step 21: .* look at the data'):
        lr_find(net, batches)


def test_plot(net, few):
    table = lr_find(net, few, steps=30)
    ax = plot_lr_find(table, label='a', style='--')
    line, = ax.lines
    assert line.get_xdata().tolist() == list(table.index) and ax.get_xscale() == 'log'
    near = [table.loss.iloc[max(0, k - 5):k + 6].mean() for k in range(len(table))]
    assert line.get_ydata().tolist() == approx(near)
    assert (line.get_label(), line.get_linestyle()) == ('a', '--')
    assert (ax.get_xlabel(), ax.get_ylim()[0]) == ('learning rate', 0)
    assert 'running mean' in ax.get_ylabel()
    assert plot_lr_find(table, ax) is ax and len(ax.lines) == 2
    plt.close('all')


@pytest.mark.parametrize('losses', [[2.3]*20 + [1.]*20 + [1e6], [0.02]*20 + [0.1]*20 + [50.],
                                    [0.001]*5 + [0.2]*35])
def test_the_plot_shows_the_curve(losses):
    "Its lowest part and its rise, however far the end is off: also where it begins near 0."
    lr = pd.Index([1.1**k for k in range(len(losses))], name='lr')
    ax = plot_lr_find(pd.DataFrame({'loss': losses}, lr))
    seen = [y for y in ax.lines[0].get_ydata() if y < ax.get_ylim()[1]]
    assert len(seen) > 30 and max(seen) > ax.get_ylim()[1]/6
    plt.close('all')


@pytest.mark.slow
@pytest.mark.mnist
def test_longer_tests_point_lower(mnist):
    from mnist_mb.training import Model
    torch.manual_seed(0)
    model, train = Model(784, 50, 10), mnist[0]
    lowest = [lr_find(model, train, steps=steps).loss.rolling(11, center=True).mean().idxmin()
              for steps in (50, 1000)]
    assert lowest[0] > 1.5*lowest[1]
