"""Chapter 04: intervals, McNemar's test, confusion, top losses, calibration, temperature."""
import math
from time import process_time

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, TensorDataset

from mnist_mb.evaluation import (accuracy_interval, calibration_table, class_report,
                                 confusion_matrix, expected_calibration_error, fit_temperature,
                                 mcnemar, plot_calibration, plot_confusion, predict, top_losses)

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

approx, cross_entropy, nan, inf = pytest.approx, nn.functional.cross_entropy, math.nan, math.inf


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')


# predict

def test_predict_of_a_tensor_a_pair_and_minibatches():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 3))
    net[0].eval()
    x, y = torch.rand(9, 784, generator=generator()), torch.arange(9) % 3
    state, seen = torch.get_rng_state(), []
    net.register_forward_hook(lambda net, _, out: seen.append((net.training, len(out))))
    once = predict(net, x)
    for data in ((x, y), list(zip(x.split(4), y.split(4)))):
        logits, target = predict(net, data, bs=4)
        assert_close(logits, once)
        assert torch.equal(target, y) and not logits.requires_grad
    assert seen == [(False, 9)] + [(False, 4), (False, 4), (False, 1)]*2
    assert [part.training for part in net.modules()] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert_close(predict(net, x, bs=2), once)
    logits, target = predict(net, DataLoader(TensorDataset(x, y), 4, shuffle=True))
    order = torch.cdist(logits, once).argmin(1)
    assert sorted(order.tolist()) == list(range(9)) and torch.equal(target, y[order])


def test_predict_has_the_door_of_evaluate():
    x, y = torch.rand(9, 4, generator=generator()), torch.arange(9) % 3
    with pytest.raises(ValueError, match='9 rows of x and 8 of y'):
        predict(nn.Linear(4, 3), (x, y[:8]))
    for data in ([x, y], [{'image': x}], x.numpy(), []):
        with pytest.raises(Exception) as e:
            predict(nn.Linear(4, 3), data)
        assert 'minibatch to predict' in e.value.__notes__[0]


# accuracy_interval

@pytest.mark.parametrize('z', [1, 1.96, 3])
@pytest.mark.parametrize('correct, n', [(9650, 10_000), (4, 50), (1, 3), (1, 2)])
def test_ends_are_z_standard_deviations_away(correct, n, z):
    low, high = accuracy_interval(correct, n, z)
    assert 0 < low < correct/n < high < 1
    for p in (low, high):
        assert abs(correct/n - p) == approx(z*math.sqrt(p*(1 - p)/n), rel=1e-9)


def test_interval_of_none_of_all_and_of_any_kind_of_number():
    for n in (1, 3, 7, 11, 12, 10_000, 123_457):
        assert accuracy_interval(0, n) == (0, approx(1.96**2/(n + 1.96**2), rel=1e-9))
        assert accuracy_interval(n, n) == (approx(n/(n + 1.96**2), rel=1e-9), 1)
    for k in (9650., torch.tensor(9650.), np.uint16(9650), torch.tensor(.965).item()*10_000):
        assert accuracy_interval(k, torch.tensor(10_000)) == accuracy_interval(9650, 10_000)


@pytest.mark.parametrize('correct, n', [(-1, 5), (6, 5), (0.96, 1), (0.96, 10_000), (4.5, 50)])
def test_interval_refuses(correct, n):
    with pytest.raises(ValueError, match=f'{correct} right of {n}'):
        accuracy_interval(correct, n)


# mcnemar

def lists(a, b, both=0, neither=0):
    "Two lists of right and wrong with these counts."
    right_a = torch.tensor([1]*a + [0]*b + [1]*both + [0]*neither).bool()
    right_b = torch.tensor([0]*a + [1]*b + [1]*both + [0]*neither).bool()
    return right_a, right_b


@pytest.mark.parametrize('a, b', [(0, 1), (1, 9), (9, 1), (12, 48), (241, 60), (700, 800), (5, 5),
                                  (0, 0), (0, 900)])
def test_p_value_is_that_of_fair_coins(a, b):
    ways = [1]  # the last line of Pascal's triangle
    for _ in range(a + b):
        ways = [left + right for left, right in zip([0, *ways], [*ways, 0])]
    found = mcnemar(*lists(a, b, 20, 3))
    assert (found.only_a, found.only_b) == (a, b)
    exact = min(1, 2*sum(ways[:min(a, b) + 1])/sum(ways))
    assert found.p_value == approx(exact, rel=1e-12) and found.p_value > 0
    assert found.difference == approx((a - b)/(a + b + 23))
    assert mcnemar(*(right.numpy() for right in lists(a, b, 20, 3))) == found


def test_many_disagreements_are_quick():
    start = process_time()
    found = mcnemar(*lists(50_000, 50_400, 10))
    assert found.p_value == approx(math.erfc(399/math.sqrt(2*100_400)), rel=1e-3)  # nearly normal
    assert process_time() - start < 1


@pytest.mark.parametrize('wrong', [(0, 1), (0,), (1,)])
def test_class_numbers_are_no_list_of_right_and_wrong(wrong):
    pair = [*lists(9, 2, 89)]
    for i in wrong:
        pair[i] = torch.arange(100) % 10
    with pytest.raises(RuntimeError, match='bool'):
        mcnemar(*pair)


def test_interval_of_a_difference_by_hand():
    low, high = mcnemar(*lists(9, 2, 89))[3:5]
    half = 1.96*math.sqrt(12 - 49/102)/102
    assert (low, high) == approx((7/102 - half, 7/102 + half), abs=1e-12)
    assert mcnemar(*lists(2, 9, 89))[3:5] == approx((-high, -low), abs=1e-12)
    for few in (lists(0, 1), lists(0, 0, 10)):  # agreement doesn't prove equality
        found = mcnemar(*few)
        assert -1 <= found.low < 0 < found.high <= 1


# what is no logits and target: all five functions have the same door

DOORS = [confusion_matrix, top_losses, calibration_table, expected_calibration_error,
         fit_temperature]
ROWS, TRUTH = torch.eye(3)[[0, 2, 1]]*9, torch.tensor([0, 0, 2])


@pytest.mark.parametrize('logits, target, why', [
    (ROWS.softmax(1), TRUTH, 'probabilities: pass their logarithm'),
    ((99*ROWS).softmax(1).half(), TRUTH, 'probabilities'),
    (ROWS, TRUTH[:2], r'\(3, 3\), \(2,\)'), (ROWS, TRUTH[:, None], r'\(3, 3\), \(3, 1\)'),
    (ROWS[0], TRUTH, r'\(3,\), \(3,\)'), (ROWS[:0], TRUTH[:0], r'\(0, 3\)'),
    (ROWS, TRUTH + 1, 'value 3, but there are 3 classes'), (ROWS, TRUTH - 100, 'value -100'),
    (ROWS, TRUTH + .5, 'value 0.5'), (ROWS, TRUTH*nan, 'value nan'),
    (ROWS + torch.tensor([[0], [nan], [0]]), TRUTH, '1 of 3 rows .* first is row 1'),
    (ROWS + torch.tensor([[0, 0, 0], [0, 0, 0], [inf, 0, 0]]), TRUTH, 'first is row 2'),
    (ROWS - torch.tensor([[0], [inf], [inf]]), TRUTH, '2 of 3 rows')])
def test_no_logits_and_target(logits, target, why):
    for func in DOORS:
        for convert in (torch.as_tensor, np.asarray):
            with pytest.raises(ValueError, match=why):
                func(convert(logits), convert(target))


@pytest.mark.parametrize('func', DOORS)
def test_arrays_any_dtype_gradients_and_log_probabilities(func):
    logits = (3*torch.randn(50, 4, generator=generator())).bfloat16().float()
    y = (logits + 2*torch.randn(50, 4, generator=generator(1))).argmax(1)
    want = func(logits, y)
    for same in ((logits.numpy(), y.numpy().astype('uint16')), (logits.bfloat16(), y.float()),
                 (logits.double().requires_grad_(), y.int()), (logits.log_softmax(1), y)):
        have = func(*same)
        assert_close(torch.tensor(np.asarray(have)), torch.tensor(np.asarray(want)),
                     rtol=1e-4, atol=1e-5, equal_nan=True)


# confusion_matrix, plot_confusion, class_report: truth 0 read as 0 and 2, truth 2 read as 1

@pytest.mark.parametrize('rows', [ROWS, ROWS.log()])  # -inf is a logit: a probability of 0
def test_confusion_and_report_by_hand(rows):
    counts = confusion_matrix(rows, TRUTH)
    assert counts.to_numpy().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert (counts.index.name, counts.columns.name) == ('truth', 'prediction')
    table = class_report(counts)
    whole = {'recall': [(1, 2), (0, 0), (0, 1)], 'precision': [(1, 1), (0, 1), (0, 1)],
             'F1': [(1, 2), (0, 1), (0, 2)]}  # of those that are it or were read as it
    for name, cases in whole.items():
        ends = [accuracy_interval(k, n) if n else (0, 1) for k, n in cases]
        shares = [(k/n if n else nan, *end) for (k, n), end in zip(cases, ends)]
        if name == 'F1':
            shares = [tuple(2*j/(1 + j) for j in row) for row in shares]
        assert [*map(tuple, table[name].to_numpy())] == [approx(row, nan_ok=True) for row in shares]
    assert table['F1', 'share'].tolist() == approx([2/3, 0, 0])  # 2/(1/recall + 1/precision)
    assert [*table['F1']] == ['share', 'low', 'high'] and table.index.name == 'class'
    assert confusion_matrix(ROWS[:, :1], [0, 0, 0]).to_numpy().tolist() == [[3]]


def test_plot_confusion():
    ax = plot_confusion(pd.DataFrame([[9, 2], [0, 9]]))
    assert ax.images[0].get_array().filled(-1).tolist() == [[-1, 2], [0, -1]]
    assert ax.images[0].get_clim() == (0, 2)  # from 0, and white on dark
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('prediction', 'truth')
    assert [(t.get_position(), t.get_text(), t.get_color(), t.get_weight()) for t in ax.texts] == [
        ((0, 0), '9', 'black', 'bold'), ((1, 0), '2', 'white', 'normal'),
        ((0, 1), '', 'black', 'normal'), ((1, 1), '9', 'black', 'bold')]
    _, mine = plt.subplots()
    many = pd.DataFrame(np.ones((21, 21)))
    assert plot_confusion(many, mine) is mine and not mine.texts


# top_losses

def test_top_losses_by_hand_and_among_many():
    logits = torch.tensor([[0., 9, 0], [9, 0, 0], [0, 0, 9], [200, 0, 0], [201, 0, -200]])
    table = top_losses(logits, [1, 2, 2, 1, 2], 3)
    assert (table.index.tolist(), table.index.name) == ([4, 3, 1], 'row')
    assert (table.truth.tolist(), table.prediction.tolist()) == ([2, 1, 2], [0, 0, 0])
    sure = 1/(1 + 2*math.e**-9)
    assert table.loss.tolist() == approx([401, 200, 9 - math.log(sure)], rel=1e-9)
    assert table.p_prediction.tolist() == approx([1, 1, sure], rel=1e-9)
    assert table.p_truth.tolist() == approx([0, 0, sure*math.e**-9], rel=1e-9)
    logits = torch.randn(500, 7, generator=generator()).repeat(2, 1)
    y = torch.randint(7, (500,), generator=generator(1)).repeat(2)
    loss = -logits.double().log_softmax(1)[range(1000), y]
    rows = loss.argsort(descending=True, stable=True)[:10]  # of equal ones the first
    assert top_losses(logits, y).index.tolist() == rows.tolist()
    assert len(top_losses(logits, y, 10_000)) == 1000


# calibration

FOUR = torch.tensor([[.9, .1, 0], [.1, .8, .1], [.2, .2, .6], [.6, .3, .1]]).log()
FOUR_TRUTH = torch.tensor([0, 2, 2, 1])


def test_calibration_by_hand():
    table = calibration_table(FOUR, FOUR_TRUTH, 4)
    assert list(table) == ['low', 'high', 'count', 'confidence', 'accuracy']
    assert (table.low.tolist(), table.high.tolist()) == ([0, .25, .5, .75], [.25, .5, .75, 1])
    assert table['count'].tolist() == [0, 0, 2, 2] and table.index.name == 'bin'
    assert table.confidence[2:].tolist() == approx([.6, .85]) and table.accuracy[3] == .5
    assert table.confidence[:2].isna().all() and table.accuracy[:2].isna().all()
    assert expected_calibration_error(FOUR, FOUR_TRUTH, 4) == approx(0.225, abs=1e-6)
    even = torch.tensor([[1, 1], [0, 0], [9999, 0]])  # 1/2, 1/2 and 1: each bin has its upper end
    assert calibration_table(even, [0, 0, 0], 4)['count'].tolist() == [0, 2, 0, 1]


@pytest.fixture(scope='module')
def calibrated():
    "Logits, and labels drawn from their probabilities: calibrated by construction."
    logits = 3*torch.randn(50_000, 4, generator=generator())
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator(1))[:, 0]


def test_calibrated_by_construction(calibrated):
    logits, y = calibrated
    table = calibration_table(logits, y, 7).dropna()
    sure, guess = logits.softmax(1).max(1)
    assert table['count'].sum() == 50_000
    assert (table['count']*table.accuracy).sum() == approx((guess == y).sum().item())
    assert (table['count']*table.confidence).sum() == approx(sure.double().sum().item(), rel=1e-6)
    assert table.confidence.between(table.low, table.high).all()
    finer = [round(expected_calibration_error(logits, y, bins), 9) for bins in (1, 2, 4, 8, 80)]
    assert finer == sorted(finer) and finer[-1] < 0.03
    assert expected_calibration_error(logits, y) < 0.01
    assert fit_temperature(logits, y) == approx(1, abs=0.03)
    T = fit_temperature(logits[:2000].double(), y[:2000])
    for k in (0.01, 3., 1000.):  # wider logits have a higher temperature
        assert fit_temperature(k*logits[:2000].double(), y[:2000]) == approx(k*T, rel=1e-6)


def test_plot_calibration_fades_small_bins():
    table = pd.DataFrame({'low': [0, .25, .5, .75], 'high': [.25, .5, .75, 1],
                          'count': [0, 4, 10, 80], 'confidence': [nan, .4, .6, .9],
                          'accuracy': [nan, .25, .5, .8]})
    axes = plot_calibration(table, label='a', style='s--')
    assert [ax.get_ylabel() for ax in axes] == ['accuracy', 'rows']
    diagonal, joined, faded = axes[0].lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert joined.get_xydata().tolist() == [[.6, .5], [.9, .8]]
    assert faded.get_xydata().tolist() == [[.4, .25]] and faded.get_alpha() < 1
    styles = [joined.get_label(), joined.get_linestyle(), faded.get_linestyle()]
    assert styles == ['a', '--', 'None']
    bars = [c.get_segments()[0][:, 1].tolist() for c in axes[0].collections]
    ends = [(5, 10), (64, 80), (1, 4)]
    assert bars == [approx(list(accuracy_interval(*e))) for e in ends]
    assert axes[1].patches[0].get_data().values.tolist() == [0, 4, 10, 80]
    assert plot_calibration(table, axes) is axes and len(axes[1].patches) == 2


def test_temperature_is_the_minimum(calibrated):
    logits, y = (part[:2000].clone() for part in calibrated)
    y[:400] = 0  # some labels that the logits don't expect
    T = fit_temperature(logits, y)
    assert T > 1.1
    for other in (0.97, 1.03):
        assert cross_entropy(logits.double()/T, y) < cross_entropy(logits.double()/(T*other), y)


@pytest.mark.parametrize('logits, y', [
    (2*torch.eye(3), [0, 1, 2]), (2*torch.eye(3), [1, 2, 0]), (torch.zeros(3, 3), [0, 1, 2]),
    (FOUR, FOUR_TRUTH)])
def test_no_temperature_is_best(logits, y):
    with pytest.raises(ValueError, match='no temperature is best'):
        fit_temperature(logits, y)


def test_logits_whose_sums_are_near_one_are_no_probabilities():
    logits = torch.tensor([[0.4, 0.59], [0.58, 0.41]])  # sums 0.99
    assert confusion_matrix(logits, torch.tensor([1, 0])).to_numpy().tolist() == [[1, 0], [0, 1]]
