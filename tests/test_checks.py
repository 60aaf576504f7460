"""mnist_mb.checks: what is refused, with which error and which words; and what is let through."""
import os
import re
from math import inf, nan

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnist_mb.checks import (check_cross_entropy, check_fit, check_logits, check_nll, check_output,
                             check_positive, check_probabilities, check_target, close_if_it_fails,
                             eval_mode, verdict)
from mnist_mb.nll import cross_entropy, nll

matplotlib.use('agg')
LOGITS = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
LOG_PROBS, TARGET = LOGITS.log_softmax(1), torch.arange(50) % 10
COLUMN, ONE_HOT = TARGET[:, None], F.one_hot(TARGET, 10)
Q = LOGITS.flip(0).softmax(1)
W = torch.arange(1., 11.)
SOME = TARGET.where(torch.arange(50) % 3 > 0, -100)
NONE = torch.full((50,), -100)


# -- numbers

@pytest.mark.parametrize('value', (0, -1, 2.5, nan, inf, True, None, '3', 1e3))
def test_no_count(value):
    with pytest.raises(ValueError, match=re.escape(f'bs is {value!r}; it must be a whole number')):
        check_positive(epochs=3, bs=value)


@pytest.mark.parametrize('value', (0, -0.1, nan, inf, True, None, '0.1', 1j))
def test_no_rate(value):
    with pytest.raises(ValueError, match=re.escape(f'lr is {value!r}; it must be a positive')):
        check_positive(whole=False, lr=value)


def test_numbers_that_pass():
    check_positive(bs=1, epochs=np.int64(3), n=np.uint8(2))
    check_positive(whole=False, lr=0.5, low=1, high=np.float32(2))


def test_numbers_that_no_machine_holds():
    for whole in (True, False):
        with pytest.raises(ValueError, match='bs is larger than 9223372036854775807'):
            check_positive(whole, bs=10**400)


# -- predictions and targets: shapes and types are looked at even without the values

SHAPES = [  # predictions, target, error, words
    (LOGITS, COLUMN, ValueError, r'shape \(50, 1\), but must be \(50,\): use target.squeeze\(1\)'),
    (LOGITS, TARGET[None], ValueError, r'squeeze\(0\)'),
    (LOGITS, ONE_HOT, ValueError, r'if one-hot, use target.long\(\).argmax\(1\)'),
    (LOGITS, ONE_HOT.bool(), ValueError, r'argmax\(1\)'),
    (LOGITS, COLUMN.float(), ValueError, r'squeeze\(1\) and .long'),
    (LOGITS, Q[:, :9], ValueError, r'shape \(50, 9\), but must be \(50,\) and .long'),
    (LOGITS, TARGET.view(2, 25), ValueError, r'shape \(2, 25\), but must be \(50,\)'),
    (LOGITS[:1], TARGET[0], ValueError, r'shape \(\), but must be \(1,\)'),
    (LOGITS, TARGET[:49], ValueError, '49 class numbers, but there are 50 rows'),
    (LOGITS, TARGET[:1], ValueError, '1 class numbers, but there are 50 rows'),
    (LOGITS, TARGET.float(), TypeError, 'float32.*long'),
    (LOGITS, TARGET.half(), TypeError, 'float16.*long'),
    (LOGITS, TARGET > 3, TypeError, 'bool.*long'),
    (LOGITS, TARGET.cfloat(), TypeError, 'complex64.*long'),
    (LOGITS, TARGET.tolist(), TypeError, r'target is a list, .*torch.as_tensor\(target\)'),
    (LOGITS, TARGET.numpy(), TypeError, 'target is a ndarray'),
    (LOGITS.tolist(), TARGET, TypeError, 'is|are a list, .*torch.as_tensor'),
    (LOGITS.long(), TARGET, TypeError, r'have dtype torch.int64: use \w+.float\(\)'),
    (TARGET, LOGITS, TypeError, r'exchanged\? First come \w+, then target'),
    (LOGITS[None], TARGET[None], ValueError, r'flatten\(0, -2\).*movedim'),
    (LOGITS[0], TARGET[0], ValueError, r'\[None\] and target\[None\]'),
    (LOGITS[0, 0], TARGET[0], ValueError, r'\(rows, classes\)'),
    (LOGITS[:0], TARGET[:0], ValueError, 'no rows, and the mean of nothing'),
    (LOGITS[:, :0], TARGET, ValueError, 'no classes')]


@pytest.mark.parametrize('values', (True, False))
@pytest.mark.parametrize('x, target, error, words', SHAPES, ids=range(len(SHAPES)))
def test_shapes_and_types(x, target, error, words, values):
    for f in (cross_entropy, nll):
        with pytest.raises(error, match=words):
            f(x, target, check=values)


NUMBERS = [  # target, words, ignore_index
    (torch.where(TARGET == 0, 10, TARGET), 'value 10, but there are 10 classes: 0 to 9$', None),
    (torch.where(TARGET == 9, -7, TARGET), r'value -7, .*ignore_index=-7\) leaves', None),
    (SOME, r'value -100, .*ignore_index=-100\) leaves such rows out', None),
    (torch.where(SOME < 0, -7, SOME), '0 to 9$', -100),
    (torch.where(SOME < 0, 255, SOME).to(torch.uint8), 'value 255, .*ignore_index=255', None),
    (torch.where(SOME < 0, -1, SOME).to(torch.uint8), 'value 255, but there are 10', -1),
    (torch.where(SOME < 0, -1, SOME).to(torch.int8), 'value -1, but there are 10', 255)]


@pytest.mark.parametrize('target, words, ignore', NUMBERS, ids=range(len(NUMBERS)))
def test_class_numbers(target, words, ignore):
    with pytest.raises(IndexError, match=words):
        cross_entropy(LOGITS, target, ignore_index=ignore)
    with pytest.raises(IndexError, match=words):
        check_target(target, 50, 10, ignore)
    check_target(target, 50, 10, ignore, values=False)


@pytest.mark.parametrize('labels, seen', (([0, 3], 3), ([3, 0], 3), ([0, -1], -1), ([-1, 0], -1)))
def test_one_bad_of_two(labels, seen):
    with pytest.raises(IndexError, match=f'value {seen}, but there are 3 classes'):
        nll(torch.zeros(2, 3).log_softmax(1), torch.tensor(labels))


@pytest.mark.parametrize('kind', (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8))
def test_targets_that_pass(kind):
    check_target(TARGET.to(kind), 50, 10)
    check_target(NONE, 50, 10, ignore_index=-100)


@pytest.mark.parametrize('index', (nan, 1.5, '3', [1]))
def test_ignore_index_is_a_whole_number(index):
    with pytest.raises(TypeError, match=re.escape(f'ignore_index is {index!r}')):
        cross_entropy(LOGITS, TARGET, ignore_index=index)


# -- rows that add up to 1

@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16, torch.float32, torch.float64))
@pytest.mark.parametrize('c', (1, 10, 50257))
def test_probabilities_that_pass(dtype, c):
    "Every dtype, many classes, flat and sharp, a small constant before the log."
    for scale in (0, 1, 30):
        x = scale*torch.randn(8, c, generator=torch.Generator().manual_seed(3))
        zeros = torch.zeros(8).long()
        check_nll(x.to(dtype).log_softmax(1), zeros)
        check_nll((x.softmax(1) + 1e-8).log(), zeros)
        check_probabilities(x.softmax(1).to(dtype))


@pytest.mark.parametrize('bad, row', (
    ([[-inf, -inf]], 0), ([[inf, 0.]], 0), ([[nan, 0.]], 0), ([[0., -inf], [0., nan]], 1),
    ([[0., -inf], [0.01, -inf]], 1)))
def test_no_log_probabilities(bad, row):
    with pytest.raises(ValueError, match=f'row {row}: .*not to 1. For logits, use cross_entropy'):
        check_nll(torch.tensor(bad), torch.zeros(len(bad)).long())


@pytest.mark.parametrize('wrong', (LOGITS, LOGITS.softmax(1), -LOGITS.abs()))
def test_logits_and_probabilities_are_found_out(wrong):
    with pytest.raises(ValueError, match='not to 1. For logits, use cross_entropy; of prob'):
        nll(wrong, TARGET)
    nll(wrong, TARGET, check=False)


@pytest.mark.parametrize('bad, words', (
    (Q - 0.5, 'no probability'), (LOGITS, 'are these logits'), (10*Q, 'row 0: .*add to 10, not'),
    (Q*nan, 'no probability'), (torch.cat([Q[:7], 1.01*Q[7:]]), 'row 7: .*add to 1.01')))
def test_no_probabilities(bad, words):
    with pytest.raises(ValueError, match=words):
        check_probabilities(bad)
    with pytest.raises(ValueError, match=words):
        cross_entropy(LOGITS, bad)
    cross_entropy(LOGITS, bad, check=False)


# -- options of cross_entropy

@pytest.mark.parametrize('check', (True, False))
@pytest.mark.parametrize('target, options, words', (
    (Q, dict(ignore_index=3), 'ignore_index is 3.*probabilities: leave'),
    (TARGET, dict(weight=W[:9]), r'weight has shape \(9,\), but must be \(10,\)'),
    (TARGET, dict(weight=W[:, None]), r'shape \(10, 1\)'),
    (TARGET, dict(reduction='avg'), "'avg'"),
    (TARGET, dict(label_smoothing=1.5), 'label_smoothing is 1.5'),
    (TARGET, dict(label_smoothing=-0.1), 'label_smoothing is -0.1'),
    (TARGET, dict(label_smoothing=nan), 'label_smoothing is nan')))
def test_options(target, options, words, check):
    with pytest.raises(ValueError, match=words):
        cross_entropy(LOGITS, target, check=check, **options)


@pytest.mark.parametrize('weight, words', (
    (-W, 'class 0 is -1: '), (W.where(W < 10, inf), 'class 9 is inf: '), (W*nan, 'class 0 is nan')))
def test_weights(weight, words):
    with pytest.raises(ValueError, match=words):
        cross_entropy(LOGITS, TARGET, weight=weight)


def test_weight_is_a_tensor():
    with pytest.raises(TypeError, match=r'weight is a list.*torch.as_tensor\(weight\)'):
        check_cross_entropy(LOGITS, TARGET, weight=W.tolist())


@pytest.mark.parametrize('target, options', (
    (NONE, dict(ignore_index=-100)), (TARGET*0 + 3, dict(ignore_index=3)),
    (TARGET, dict(weight=W*0))))
def test_no_row_counts(target, options):
    with pytest.raises(ValueError, match='no row of this batch counts'):
        cross_entropy(LOGITS, target, **options)


def test_check_logits_names_what_it_sees():
    with pytest.raises(TypeError, match='preds have dtype torch.bool: use preds.float'):
        check_logits(LOGITS > 0, 'preds')
    check_logits(LOGITS.half())


# -- models and fit

def test_eval_mode():
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2), nn.Linear(2, 2)).train()
    model[1].eval()
    before = [part.training for part in model.modules()]
    with pytest.raises(KeyError), eval_mode(model):
        assert not any(part.training for part in model.modules())
        raise KeyError
    assert [part.training for part in model.modules()] == before == [True, True, False, True]


NET = nn.Linear(3, 2)
PAIR = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])
GOOD = dict(model=NET, train=PAIR, valid=None, epochs=1, bs=50, lr=0.5,
            loss_func=F.cross_entropy, opt_func=torch.optim.SGD)
BAD_FIT = [
    (dict(epochs=0), ValueError, 'epochs is 0'), (dict(bs=2.5), ValueError, 'bs is 2.5'),
    (dict(lr=-1), ValueError, 'lr is -1'),
    (dict(loss_func=nn.CrossEntropyLoss), TypeError, r'CrossEntropyLoss\(\)'),
    (dict(opt_func=torch.optim.SGD(NET.parameters())), TypeError, 'opt_func is a SGD'),
    (dict(train=None), TypeError, 'train is a NoneType'),
    (dict(train=iter([PAIR])), TypeError, 'train is a list_iterator'),
    (dict(train=PAIR[:1]), TypeError, 'must be a pair'),
    (dict(train=(PAIR[0].numpy(), PAIR[1])), TypeError, 'torch.as_tensor'),
    (dict(train=(PAIR[0][:3], PAIR[1])), ValueError, 'as many rows are needed'),
    (dict(train=(PAIR[0][:0], PAIR[1][:0])), ValueError, 'at least one'),
    (dict(valid=(PAIR[0], PAIR[1][:, None])), ValueError, r'valid: .*shape \(4, 1\)'),
    (dict(valid=(PAIR[0], PAIR[1] + 1)), IndexError, 'valid: target has the value 2'),
    (dict(train=(PAIR[0], PAIR[1] - 1)), IndexError, 'train: target has the value -1')]


@pytest.mark.parametrize('wrong, error, words', BAD_FIT, ids=range(len(BAD_FIT)))
def test_fit_is_refused(wrong, error, words):
    with pytest.raises(error, match=words):
        check_fit(**GOOD | wrong)


@pytest.mark.parametrize('fine', (
    {}, dict(train=[PAIR]), dict(opt_func=torch.optim.LBFGS, own_epoch=True), dict(bs=np.int64(3)),
    dict(loss_func=nn.CrossEntropyLoss(reduction='none'), own_epoch=True),
    dict(model=nn.Linear(3, 2).requires_grad_(False), own_epoch=True),
    dict(train=(PAIR[0], PAIR[1].byte())),
    dict(train=(PAIR[0], NET(PAIR[0]).detach()), loss_func=F.mse_loss),
    dict(train=(PAIR[0], PAIR[1].byte() + 255), loss_func=nn.CrossEntropyLoss(ignore_index=255)),
    dict(valid=PAIR), dict(opt_func=lambda params, lr: None),
    dict(train=(PAIR[0], torch.tensor([0, -100, 1, 1]))), dict(loss_func=nn.CrossEntropyLoss()),
    dict(train=(PAIR[0], torch.rand(4, 2).softmax(1)))))
def test_fit_passes(fine):
    check_fit(**GOOD | fine)


# -- figures

def test_a_figure_is_closed_if_drawing_fails_and_others_stay():
    import matplotlib.pyplot as plt
    kept = plt.figure().number

    @close_if_it_fails()
    def plot(fail):
        "A plot."
        made = plt.figure().number
        assert plt.get_fignums() == [kept, made]
        if fail:
            raise KeyboardInterrupt
        return made

    with pytest.raises(KeyboardInterrupt):
        plot(True)
    assert plt.get_fignums() == [kept] and plot.__doc__ == 'A plot.'
    made = plot(False)
    assert plt.get_fignums() == [kept, made]
    plt.close('all')


# -- files

def test_output(tmp_path):
    there = tmp_path/'there.pt'
    there.write_text('x')
    (tmp_path/'circle').symlink_to(tmp_path/'circle')
    for path, words in ((tmp_path, 'it is a folder'), (tmp_path/'no'/'a.pt', 'there is no folder'),
                        (there, 'exists: choose another name, or say --overwrite'),
                        (tmp_path/'circle', 'symbolic links|loop'),
                        (tmp_path/('x'*300), 'File name too long')):
        with pytest.raises(ValueError, match=words):
            check_output(path)
    with pytest.raises(ValueError, match='or say overwrite=True'):
        check_output(str(there), cure='overwrite=True')
    check_output(there, overwrite=True)
    check_output(tmp_path/'new.pt')
    (tmp_path/'circle').unlink()
    there.chmod(0o444)
    for path, words in ((there, 'read-only'), (os.devnull, 'no regular file')):
        with pytest.raises(ValueError, match=words):
            check_output(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ['there.pt'] and there.read_text() == 'x'


# -- exercises

CASES = [('right: it is', torch.tensor([1., 2.])), ('not right: turned', torch.tensor([2., 1.])),
         ('not right: nan', torch.tensor([nan, 2.]))]


@pytest.mark.parametrize('result, words', (
    (None, 'not solved yet'), (..., 'not solved yet'), ([1, 2], 'right: it is'),
    (np.array([[1., 2.]]), 'right: it is'), (torch.tensor([1, 2]).half(), 'right: it is'),
    (torch.tensor([1., 2.], requires_grad=True), 'right: it is'), ((2, 1), 'not right: turned'),
    ([nan, 2], 'not right: nan'), ([1, 3], r'not right: your result has 3 at \[1\], where .* 2$'),
    ([1, 2, 3], r'not right: the shape of your result is \(3,\), and should be \(2,\)'),
    ('x', 'not right: it ends with .*Error')))
def test_verdict(result, words):
    assert re.match(words, verdict(lambda: result, CASES))


def test_verdict_of_an_error():
    words = verdict(lambda: 1/0, CASES)
    assert words == "not right: it ends with ZeroDivisionError: division by zero"


def test_paths_have_variables_and_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv('SOMEWHERE', str(tmp_path))
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path/'there').touch()
    for path in ('$SOMEWHERE/there', '${SOMEWHERE}/there', '~/there'):
        with pytest.raises(ValueError, match='exists'):
            check_output(path)
        check_output(path, overwrite=True)
