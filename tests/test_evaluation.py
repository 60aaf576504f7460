"""Chapter 04: intervals, McNemar's test, confusion, top losses, calibration, temperature."""
import math
from math import comb, sqrt

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mnist_mb.evaluation import (Comparison, accuracy_interval, calibration_table,
                                 confusion_matrix, expected_calibration_error, fit_temperature,
                                 mcnemar, plot_calibration, plot_confusion, predict, recall,
                                 top_losses)

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

approx = pytest.approx


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')


# accuracy_interval

@pytest.mark.parametrize('z', [1, 1.96, 3])
@pytest.mark.parametrize('correct, n', [(9650, 10_000), (4, 50), (1, 3), (1, 2)])
def test_ends_are_z_standard_deviations_away(correct, n, z):
    low, high = accuracy_interval(correct, n, z)
    assert 0 < low < correct/n < high < 1
    for p in (low, high):
        assert abs(correct/n - p) == approx(z*sqrt(p*(1 - p)/n), rel=1e-9)


@pytest.mark.parametrize('n', [1, 3, 7, 11, 12, 10_000, 123_457])
def test_none_or_all_right_is_exact(n):
    assert accuracy_interval(0, n) == (0, approx(1.96**2/(n + 1.96**2), rel=1e-9))
    assert accuracy_interval(n, n) == (approx(n/(n + 1.96**2), rel=1e-9), 1)


@pytest.mark.parametrize('bad', [(1, 0), (-1, 5), (6, 5), (0.96, 1), (4, 10.5), (4, 50, 0),
                                 (4, 50, -1.96), (4, 50, float('nan'))])
def test_interval_refuses(bad):
    with pytest.raises((ValueError, TypeError)):
        accuracy_interval(*bad)


def test_interval_of_whole_numbers_of_any_kind():
    for k in (torch.tensor([1, 1, 0]).bool().sum(), np.int64(2), np.uint8(2)):
        assert accuracy_interval(k, torch.tensor(3)) == accuracy_interval(2, 3)
    with pytest.raises(ValueError, match='n is larger'):
        accuracy_interval(3, 10**400)


# predict

def test_predict_leaves_model_and_random_numbers_alone():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 3))
    net[0].eval()
    x, state = torch.rand(9, 784, generator=generator()), torch.get_rng_state()
    seen = []
    net.register_forward_hook(lambda net, _, out: seen.append((net.training, len(out))))
    once, again = predict(net, x), predict(net, x, bs=4)
    assert_close(once, again)
    assert once.shape == (9, 3) and not once.requires_grad
    assert seen == [(False, 9), (False, 4), (False, 4), (False, 1)]
    assert [part.training for part in net.modules()] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('args, error, why', [
    ((nn.Identity(), torch.zeros(0, 3)), ValueError, r'\(0, 3\)'),
    ((nn.Identity(), torch.zeros(5, 3), 0), ValueError, 'bs is 0'),
    ((nn.Identity(), torch.zeros(5, 3), 2.5), ValueError, 'bs is 2.5'),
    ((nn.Identity(), torch.zeros(5, 3).numpy()), TypeError, 'x is a ndarray.*as_tensor'),
    ((torch.zeros(5), torch.zeros(5, 3)), TypeError, 'model is a Tensor, not an nn.Module'),
    ((nn.Flatten(0), torch.zeros(5, 3)), ValueError, r'\(15,\) of 5 rows')])
def test_predict_refuses(args, error, why):
    with pytest.raises(error, match=why):
        predict(*args)


# mcnemar

def lists(a, b, both=0, neither=0):
    "Two lists of right and wrong with these counts."
    right_a = torch.tensor([1]*a + [0]*b + [1]*both + [0]*neither).bool()
    right_b = torch.tensor([0]*a + [1]*b + [1]*both + [0]*neither).bool()
    return right_a, right_b


@pytest.mark.parametrize('a, b', [(0, 1), (1, 9), (9, 1), (12, 48), (60, 241), (700, 800),
                                  (5, 5), (0, 0), (0, 900)])
def test_p_value_is_that_of_fair_coins(a, b):
    found, d, k = mcnemar(*lists(a, b, 20, 3)), a + b, min(a, b)
    exact = min(1, 2*sum(comb(d, j) for j in range(k + 1))/2**d)
    assert isinstance(found, Comparison) and found[:2] == (a, b)
    assert found.p_value == approx(exact, rel=1e-12) and found.p_value > 0
    assert found.difference == approx((a - b)/(d + 23))


def test_interval_by_hand():
    low, high = mcnemar(*lists(9, 2, 89))[3:5]
    half = 1.96*sqrt(12 - 49/102)/102
    assert (low, high) == approx((7/102 - half, 7/102 + half), abs=1e-12)
    assert mcnemar(*lists(2, 9, 89))[3:5] == approx((-high, -low), abs=1e-12)
    assert -1 <= mcnemar(*lists(0, 1)).low <= mcnemar(*lists(0, 1)).high <= 1
    low, high = mcnemar(*lists(0, 0, 10))[3:5]
    assert low < 0 < high  # ten rows of agreement don't prove equality


def test_interval_keeps_its_promise_with_few_disagreements():
    draws = torch.multinomial(torch.tensor([0.05, 0.02, 0.93]), 3000*100, True,
                              generator=generator()).reshape(3000, 100)
    found = [mcnemar(row == 0, row == 1) for row in draws]
    held = sum(f.low <= 0.03 <= f.high for f in found)/3000
    assert 0.93 < held < 0.985


@pytest.mark.parametrize('a, b, error, why', [
    (torch.ones(4).bool(), torch.ones(4), TypeError, 'right_b has the type torch.float32.*argmax'),
    (torch.ones(4).int(), torch.ones(4).bool(), TypeError, 'right_a'),
    (torch.ones(4).bool(), [True]*4, TypeError, 'type list'),
    (torch.ones(4).bool(), torch.ones(3).bool(), ValueError, '4 rows and right_b 3'),
    (torch.ones(0).bool(), torch.ones(0).bool(), ValueError, r'\(0,\)'),
    (torch.ones(1, 4).bool(), torch.ones(1, 4).bool(), ValueError, r'\(1, 4\)')])
def test_mcnemar_refuses(a, b, error, why):
    with pytest.raises(error, match=why):
        mcnemar(a, b)


# confusion_matrix, plot_confusion, recall: truth 0 read as 0 and 2, truth 2 read as 1

ROWS, TRUTH = torch.eye(3)[[0, 2, 1]], torch.tensor([0, 0, 2])


@pytest.fixture
def counts():
    return confusion_matrix(nn.Identity(), ROWS, TRUTH)


@pytest.mark.parametrize('rows', [ROWS, ROWS.log()])  # -inf is a logit: a probability of 0
def test_confusion_by_hand(rows):
    counts = confusion_matrix(nn.Identity(), rows, TRUTH.to(torch.uint8))
    assert counts.to_numpy().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert (counts.index.name, counts.columns.name) == ('truth', 'prediction')


def test_one_class():
    assert confusion_matrix(nn.Identity(), ROWS[:, :1],
                            torch.zeros(3).long()).to_numpy().tolist() == [[3]]


@pytest.mark.parametrize('func', [confusion_matrix, top_losses])
@pytest.mark.parametrize('y, error, why', [
    (torch.tensor([0, 0, 3]), IndexError, 'value 3, but there are 3 classes'),
    (torch.tensor([0, -1, 0]), IndexError, 'value -1'),
    (torch.tensor([0, 2]), ValueError, '3 rows'),
    (torch.zeros(3, 1).long(), ValueError, 'squeeze'),
    (torch.zeros(3), TypeError, 'use .long'),
    ([0, 0, 2], TypeError, 'target is a list')])
def test_wrong_class_numbers(func, y, error, why):
    with pytest.raises(error, match=why):
        func(nn.Identity(), ROWS, y)


@pytest.mark.parametrize('func', [confusion_matrix, top_losses])
@pytest.mark.parametrize('odd', [float('nan'), float('inf')])
def test_diverged_logits(func, odd):
    broken = ROWS.clone()
    broken[1, 0] = odd
    with pytest.raises(ValueError, match='1 of 3 rows .* first is row 1'):
        func(nn.Identity(), broken, TRUTH)


def test_plot_confusion(counts):
    ax = plot_confusion(counts)
    shown = ax.images[0].get_array()
    assert shown.mask.tolist() == torch.eye(3).bool().tolist()
    assert (shown[0, 2], shown[2, 1], shown[0, 1]) == (1, 1, 0)
    assert ax.images[0].get_clim() == (0, 1)
    assert [t.get_text() for t in ax.texts] == ['1', '', '1', '', '', '', '', '1', '']
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('prediction', 'truth')
    assert [t.get_text() for t in ax.get_yticklabels()] == ['0', '1', '2']
    _, mine = plt.subplots()
    many = pd.DataFrame(torch.ones(21, 21).numpy())
    assert plot_confusion(many, mine) is mine and not mine.texts
    ax = plot_confusion(pd.DataFrame([[9, 2], [1, 9]]))
    assert ax.images[0].get_clim() == (0, 2)  # from 0, and white on dark
    assert [t.get_color() for t in ax.texts] == ['black', 'white', 'black', 'black']
    assert [t.get_weight() for t in ax.texts] == ['bold', 'normal', 'normal', 'bold']


@pytest.mark.parametrize('func', [plot_confusion, recall])
@pytest.mark.parametrize('spoil, why', [
    (lambda t: t.iloc[:2], r'\(2, 3\)'), (lambda t: t.to_numpy(), 'square table'),
    (lambda t: 7, 'int'), (lambda t: -t, '0 or more'), (lambda t: t/2, 'not shares'),
    (lambda t: t.iloc[:0, :0], 'at least one')])
def test_no_confusion_matrix(func, counts, spoil, why):
    with pytest.raises(ValueError, match=why):
        func(spoil(counts))


def test_recall(counts):
    each = recall(counts)
    assert list(each.columns) == ['right', 'rows', 'recall', 'low', 'high']
    assert each.right.tolist() + each.rows.tolist() == [1, 0, 0, 2, 0, 1]
    assert [str(v) for v in each.recall] == ['0.5', 'nan', '0.0']
    assert tuple(each.loc[0, ['low', 'high']]) == accuracy_interval(1, 2)
    assert tuple(each.loc[1, ['low', 'high']]) == (0, 1)
    assert tuple(each.loc[2, ['low', 'high']]) == accuracy_interval(0, 1)


# top_losses

TOY = torch.tensor([[0., 9, 0], [9, 0, 0], [0, 0, 9], [200, 0, 0], [201, 0, -200]])
TOY_TRUTH = torch.tensor([1, 2, 2, 1, 2])


def test_top_losses_by_hand():
    table = top_losses(nn.Identity(), TOY, TOY_TRUTH, 3)
    assert (table.index.tolist(), table.index.name) == ([4, 3, 1], 'row')
    assert (table.truth.tolist(), table.prediction.tolist()) == ([2, 1, 2], [0, 0, 0])
    assert table.loss.tolist() == approx([401, 200, math.log(math.e**9 + 2)], rel=1e-5)
    sure = 1/(1 + 2*math.e**-9)
    assert table.p_prediction.tolist() == approx([1, 1, sure], rel=1e-5)
    assert table.p_truth.tolist() == approx([0, 0, sure*math.e**-9], rel=1e-4)


def test_top_losses_is_the_largest_of_all():
    logits = torch.randn(500, 7, generator=generator())
    y = torch.randint(7, (500,), generator=generator(1))
    loss = nn.functional.cross_entropy(logits, y, reduction='none')
    table = top_losses(nn.Identity(), logits, y, 12)
    assert table.loss.tolist() == approx(loss.sort(descending=True).values[:12].tolist(), rel=1e-5)
    assert loss[table.index.tolist()].tolist() == approx(table.loss.tolist(), rel=1e-5)
    assert len(top_losses(nn.Identity(), logits, y, 10_000)) == 500
    for n in (0, 1.5):
        with pytest.raises(ValueError, match=f'n is {n}'):
            top_losses(nn.Identity(), logits, y, n)


# calibration

FOUR = torch.tensor([[.9, .1, 0], [.1, .8, .1], [.2, .2, .6], [.6, .3, .1]])
FOUR_TRUTH = torch.tensor([0, 2, 2, 1])


def test_calibration_by_hand():
    table = calibration_table(FOUR.requires_grad_(), FOUR_TRUTH, 4)
    assert (table.low.tolist(), table.high.tolist()) == ([0, .25, .5, .75], [.25, .5, .75, 1])
    assert table['count'].tolist() == [0, 0, 2, 2]
    assert table.confidence[2:].tolist() == approx([.6, .85]) and table.accuracy[3] == .5
    assert table.confidence[:2].isna().all() and table.accuracy[:2].isna().all()
    assert expected_calibration_error(FOUR, FOUR_TRUTH, 4) == approx(0.225, abs=1e-6)


def test_edges_belong_to_the_bin_below():
    edge = torch.tensor([[.5, .25, .25], [.75, .25, 0], [1, 0, 0]])
    counts = calibration_table(edge, torch.tensor([0, 0, 0]), 4)['count']
    assert counts.tolist() == [0, 1, 1, 1]
    alone = calibration_table(torch.ones(3, 1), torch.zeros(3).long(), 2)
    assert alone['count'].tolist() == [0, 3]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_of_a_table(dtype):
    probs = (3*torch.randn(2000, 10, generator=generator())).softmax(1).to(dtype)
    y = torch.randint(10, (2000,), generator=generator(1))
    table = calibration_table(probs, y, 7).dropna()
    assert table['count'].sum() == 2000
    sure, guess = probs.double().max(1)
    assert (table['count']*table.accuracy).sum() == approx((guess == y).sum().item())
    assert (table['count']*table.confidence).sum() == approx(sure.sum().item(), rel=1e-6)


@pytest.mark.parametrize('args, error, why', [
    ((FOUR.detach()*2, FOUR_TRUTH), ValueError, 'add to 2, not to 1'),
    ((FOUR.detach()/2, FOUR_TRUTH), ValueError, 'add to 0.5'),
    ((FOUR.detach()*float('nan'), FOUR_TRUTH), ValueError, 'nan'),
    ((FOUR.detach() - .2, FOUR_TRUTH), ValueError, 'value -0.2.*softmax'),
    ((FOUR.detach(), FOUR_TRUTH[:3]), ValueError, '3 class numbers'),
    ((FOUR.detach(), FOUR_TRUTH, 0), ValueError, 'bins is 0'),
    ((FOUR.detach(), FOUR_TRUTH, 10**9), ValueError, '10,000 at most'),
    ((FOUR.detach(), FOUR_TRUTH, 10**400), ValueError, 'bins is larger'),
    ((FOUR.detach()[:0], FOUR_TRUTH[:0]), ValueError, r'\(0, 3\)'),
    ((FOUR.detach(), FOUR_TRUTH + 1), IndexError, 'value 3'),
    ((FOUR.detach(), FOUR_TRUTH.float()), TypeError, 'long'),
    ((FOUR.detach()[0], FOUR_TRUTH), ValueError, 'classes')])
def test_calibration_refuses(args, error, why):
    with pytest.raises(error, match=why):
        calibration_table(*args)
    with pytest.raises(error, match=why):
        expected_calibration_error(*args)


def test_plot_calibration_fades_small_bins():
    table = pd.DataFrame({'low': [0, .25, .5, .75], 'high': [.25, .5, .75, 1],
                          'count': [0, 4, 10, 80], 'confidence': [math.nan, .4, .6, .9],
                          'accuracy': [math.nan, .25, .5, .8]})
    axes = plot_calibration(table, label='a', style='s--')
    assert [ax.get_ylabel() for ax in axes] == ['accuracy', 'rows']
    assert (axes[1].get_xlabel(), axes[1].get_yscale()) == ('confidence', 'log')
    _, joined, faded = axes[0].lines
    assert joined.get_xdata().tolist() == [.6, .9] and joined.get_ydata().tolist() == [.5, .8]
    assert (faded.get_xdata().tolist(), faded.get_ydata().tolist()) == ([.4], [.25])
    assert faded.get_alpha() < 1 and faded.get_linestyle() == 'None'
    bars = [c.get_segments()[0][:, 1].tolist() for c in axes[0].collections]
    ends = [(5, 10), (64, 80), (1, 4)]
    assert bars == [approx(list(accuracy_interval(*e))) for e in ends]
    assert axes[1].patches[0].get_data().values.tolist() == [0, 4, 10, 80]
    assert plot_calibration(table, axes) is axes and len(axes[1].patches) == 2
    plt.close('all')
    for wrong in (None, table.drop(columns='count'), table[:0]):
        with pytest.raises(TypeError, match='that calibration_table returns'):
            plot_calibration(wrong)
    with pytest.raises(ValueError):
        plot_calibration(table, style='?')
    assert not plt.get_fignums()


@pytest.fixture(scope='module')
def calibrated():
    "Logits, and labels drawn from their probabilities: calibrated by construction."
    logits = 3*torch.randn(50_000, 4, generator=generator())
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator(1))[:, 0]


def test_calibrated_by_construction(calibrated):
    logits, y = calibrated
    assert expected_calibration_error(logits.softmax(1), y) < 0.01
    assert fit_temperature(logits, y) == approx(1, abs=0.03)
    finer = [expected_calibration_error(logits.softmax(1), y, bins) for bins in (1, 2, 4, 8, 80)]
    assert all(fine > coarse - 1e-9 for coarse, fine in zip(finer, finer[1:]))


@pytest.mark.parametrize('k', [0.01, 3., 1000.])
def test_wider_logits_have_a_higher_temperature(calibrated, k):
    logits, y = (part[:2000] for part in calibrated)
    T = fit_temperature(logits.double(), y)
    assert fit_temperature(k*logits.double(), y) == approx(k*T, rel=1e-6)


def test_temperature_is_the_minimum(calibrated):
    logits, y = (part[:2000].clone() for part in calibrated)
    y[:400] = 0  # some labels that the logits don't expect
    T, loss = fit_temperature(logits, y), nn.functional.cross_entropy
    assert T > 1.1
    for other in (0.97, 1.03):
        assert loss(logits.double()/T, y) < loss(logits.double()/(T*other), y)


@pytest.mark.parametrize('logits, y, error, why', [
    (torch.eye(3), torch.arange(3), ValueError, 'no temperature is best'),
    (torch.eye(3), torch.tensor([1, 2, 0]), ValueError, 'no temperature is best'),
    (torch.zeros(3, 3), torch.arange(3), ValueError, 'no temperature is best'),
    (torch.eye(3), torch.arange(2), ValueError, '2 class numbers'),
    (torch.eye(3)*float('nan'), torch.arange(3), ValueError, 'nan, inf'),
    (torch.eye(3), torch.arange(3) + 9, IndexError, 'but there are 3 classes')])
def test_fit_temperature_refuses(logits, y, error, why):
    with pytest.raises(error, match=why):
        fit_temperature(logits, y)
