"""The faults 1 to 16 of chapter 13's table, as people meet them: through fit and evaluate."""
import json
import re
import warnings
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mnist_mb.training import Model, PlainSGD, evaluate, fit

ROOT = Path(__file__).parent.parent

quiet = partial(fit, epochs=2, progress=False)
Y = torch.arange(130) % 10
X = torch.rand(130, 784, generator=torch.Generator().manual_seed(0))/4 + F.one_hot(Y, 784)
PAIR = X, Y


def net():
    torch.manual_seed(1)
    return Model(784, 50, 10)


def loader(*data, bs=50, **kw):
    return DataLoader(TensorDataset(*data), bs, **kw)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def doors(data):
    "The ways in, by what they call the data."
    return {'train': lambda: quiet(net(), data), 'valid': lambda: quiet(net(), PAIR, data),
            'data': lambda: evaluate(net(), data)}


def refused(call, error):
    "The error as Python prints it, with its notes; each note is there once."
    with pytest.raises(error) as caught:
        call()
    notes = getattr(caught.value, '__notes__', [])
    assert len(notes) == len(set(notes))
    return '\n'.join([str(caught.value), *notes])


def found(words, text):
    return re.search(words, text, re.S) or pytest.fail(f'no {words!r} in: {text}')


# -- pairs that would give a wrong number

def test_fault_01_arrays_or_frames():
    arrays, frames = (X.numpy(), Y.numpy()), (pd.DataFrame(X.numpy()), pd.Series(Y.numpy()))
    for data, kinds in ((arrays, 'ndarray, ndarray'), (frames, 'DataFrame, Series'),
                        ((X, Y.tolist()), 'Tensor, list'), ((X, Y, Y), 'Tensor, Tensor, Tensor')):
        for name, call in doors(data).items():
            found(f'{name} is a tuple of {kinds}; .*torch.as_tensor', refused(call, TypeError))
    assert evaluate(net(), tuple(map(torch.as_tensor, arrays))) == evaluate(net(), PAIR)


def test_fault_02_as_many_labels_as_images():
    for x, y in ((X, Y[:-1]), (X[:-1], Y), (X, Y[:1])):
        for name, call in doors((x, y)).items():
            found(f'{name} has {len(x)} rows of x and {len(y)} of y', refused(call, ValueError))


def test_fault_03_no_rows():
    for name, call in doors((X[:0], Y[:0])).items():
        found(f'{name} has 0 rows.*at least one', refused(call, ValueError))


def test_fault_04_labels_in_a_column():
    for name, call in doors((X, Y[:, None])).items():
        found(rf'{name}: y \(int64, \(130, 1\)\).*y.squeeze\(1\)', refused(call, ValueError))
    for name, call in doors(loader(X, Y[:, None])).items():
        doing = 'train on' if name == 'train' else 'be judged'
        found(rf'to {doing}: \(float32, \(\d+, 784\)\), \(int64, \(\d+, 1\)\).*y.squeeze\(1\)',
              refused(call, RuntimeError))
    assert evaluate(net(), (X, Y[:, None].squeeze(1))) == evaluate(net(), PAIR)


def test_fault_05_one_hot_where_class_numbers_are_needed():
    one_hot, shares = F.one_hot(Y, 10), F.one_hot(Y, 10)*0.9 + 0.01
    for labels in (one_hot, shares):
        for name, call in doors((X, labels)).items():
            if name != 'train' or labels is one_hot:
                found(rf'{name}: y \(\w+, \(130, 10\)\).*y.argmax\(1\)', refused(call, ValueError))
        assert evaluate(net(), (X, labels.argmax(1))) == evaluate(net(), PAIR)
    assert quiet(net(), (X, shares), PAIR, epochs=9).valid_accuracy[9] > 0.5  # shares can train


def test_fault_06_labels_that_are_floats_or_below_0():
    ignored = Y.where(Y > 0, -100)
    for labels, cure in ((Y.float(), r'y.long\(\)'), (ignored, r'x\[y >= 0\], y\[y >= 0\]')):
        for name, call in doors((X, labels)).items():
            if name == 'train' and labels is not ignored:  # the loss may want floats
                found(r'train on.*\(float32, \(50,\)\)', refused(call, RuntimeError))
            else:
                found(rf'{name}: y \(\w+, \(130,\)\) .*{cure}', refused(call, ValueError))
    assert evaluate(net(), (X, Y.float().long())) == evaluate(net(), PAIR)
    evaluate(net(), (X[ignored >= 0], ignored[ignored >= 0]))
    column = Y[:, None].expand(-1, 10).float()
    assert quiet(net(), (X, column), loss_func=F.mse_loss, lr=0.01).train_loss.notna().all()
    found(r'130 class numbers, 0 or more$', refused(
        lambda: evaluate(net(), (X, Y.view(-1, 1, 1))), ValueError))


# -- minibatches that are used up, or none

def test_fault_07_a_generator():
    for data in (zip(X.split(50), Y.split(50)), iter(loader(X, Y)), (pair for pair in [PAIR])):
        for name in ('train', 'valid'):
            words = refused(lambda: quiet(net(), **{'train': PAIR, name: data}), TypeError)
            found(f'{name} is a {type(data).__name__}, which is used up', words)
    assert len(quiet(net(), [*zip(X.split(50), Y.split(50))])) == 2
    assert evaluate(net(), zip(X.split(50), Y.split(50))) == evaluate(net(), PAIR, bs=50)


def test_fault_08_a_list_of_two_tensors():
    for data in ([X, Y], X, [X[:2], Y[:2]]):
        for call in doors(data).values():
            found(r'the last minibatch to (train on|be judged) is no pair \(xb, yb\): \(\w+, \(\d+'
                  r'.*are a tuple \(x, y\)',
                  refused(call, (ValueError, RuntimeError)))


def test_fault_09_no_minibatches():
    for data in (loader(X, Y, bs=200, drop_last=True), []):
        for name, call in doors(data).items():
            doing = 'train on' if name == 'train' else 'be judged'
            found(f'there was no minibatch to {doing}; .*drop_last',
                  refused(call, (ZeroDivisionError, ValueError)))


class Dictionaries(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return dict(image=X[i], label=Y[i])


def test_fault_10_minibatches_that_are_no_pairs():
    for call in doors(DataLoader(Dictionaries(), 5)).values():
        found(r"the last minibatch to (train on|be judged) is a dictionary with "
              r"\['image', 'label'\]; a collate_fn", refused(call, TypeError))
    for call in doors(loader(X, Y, Y)).values():
        found(r'(judged|train on): \(float32, \(50, 784\)\)(, \(int64, \(50,\)\)){2}$',
              refused(call, ValueError))
    for call in doors([(X.numpy(), Y.numpy())]).values():
        found(r'(judged|train on): \(ndarray\), \(ndarray\)$', refused(call, TypeError))

    def collate(rows):
        return tuple(torch.stack([row[key] for row in rows]) for key in ('image', 'label'))
    assert len(quiet(net(), DataLoader(Dictionaries(), 5, collate_fn=collate))) == 2


# -- what the model or the loss can't take

def test_fault_11_images_of_another_shape_or_dtype():
    for x, kind, cure, cured in (
            (X.view(-1, 28, 28), r'float32, \(50, 28, 28\)', r'x.flatten\(1\)', X),
            ((X*100).byte(), r'uint8, \(50, 784\)', r'x.float\(\)/256', (X*100).byte().float()/256),
            (X.double(), r'float64, \(50, 784\)', r'else x.float\(\)', X)):
        for name, call in doors(loader(x, Y)).items():
            doing = 'train on' if name == 'train' else 'be judged'
            found(rf'to {doing}: \({kind}\), \(int64, \(50,\)\).*{cure}',
                  refused(call, RuntimeError))
        assert len(quiet(net(), (cured, Y))) == 2


def test_fault_12_a_validation_set_is_judged_before_the_training():
    model = net()
    for valid in ((X[:, :9], Y), [(X, Y + 1)], loader(X.double(), Y)):
        refused(lambda: quiet(model, PAIR, valid), (RuntimeError, IndexError))
        assert weights(model).equal(weights(net()))
    seen = []
    model.register_forward_hook(lambda model, _, out: seen.append((model.training, len(out))))
    for valid, size in (((X.repeat(9, 1), Y.repeat(9)), 1000), (loader(X, Y), 50)):
        quiet(model, PAIR, valid)
        assert seen[:2] == [(False, size), (True, 50)]  # no more than it needs
        seen.clear()


def test_fault_13_the_class_of_a_loss():
    for valid in (None, PAIR):
        found(r'loss_func may be a class; .*nn.CrossEntropyLoss\(\)', refused(
            lambda: quiet(net(), PAIR, valid, loss_func=nn.CrossEntropyLoss), RuntimeError))
    assert len(quiet(net(), PAIR, PAIR, loss_func=nn.CrossEntropyLoss())) == 2


def test_fault_14_a_loss_that_is_no_number():
    spoilt, losses = X.clone(), iter([1., float('inf'), 1., float('nan')])
    spoilt[129, 7] = float('nan')
    for epoch, args, kw in ((1, [(spoilt, Y)], {}), (1, [PAIR, (spoilt, Y)], {}),
                            (1, [PAIR], dict(lr=1e30)),
                            (2, [PAIR], dict(epochs=4, epoch_func=lambda *_: next(losses)))):
        with pytest.warns(UserWarning, match='loss is no number .* nan in x, or is lr') as caught:
            assert len(quiet(net(), *args, **kw)) == kw.get('epochs', 2)
        assert [str(warning.message)[:8] for warning in caught] == [f'epoch {epoch}:']
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        quiet(net(), PAIR, PAIR)


def test_fault_15_nothing_to_train():
    cure = r'all parameters frozen, or .*torch.no_grad\(\)\? model.requires_grad_\(\)'
    frozen = net().requires_grad_(False)
    found(cure, refused(lambda: quiet(frozen, PAIR), RuntimeError))
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            found(cure, refused(lambda: quiet(net(), PAIR), RuntimeError))
    frozen.layers[2].requires_grad_()  # the rest may stay frozen
    quiet(frozen, PAIR)
    assert frozen.layers[0].weight.equal(net().layers[0].weight)
    assert not frozen.layers[2].weight.equal(net().layers[2].weight)


def test_fault_16_batch_normalization_and_one_row():
    model = nn.Sequential(nn.Linear(784, 9), nn.BatchNorm1d(9), nn.Linear(9, 10))
    data = X[:101], Y[:101]
    found(r'to train on: \(float32, \(1, 784\)\).*two rows: another bs, or .*drop_last=True',
          refused(lambda: quiet(model, data, PAIR), ValueError))
    assert len(quiet(model, data, PAIR, bs=51)) == 2
    assert len(quiet(model, loader(*data, drop_last=True), (X[:1], Y[:1]))) == 2


# -- errors of others stay theirs

def test_an_error_of_the_data_itself_gets_a_true_note():
    class Lost(Dictionaries):
        def __getitem__(self, i):
            if i >= 10:
                raise FileNotFoundError(f'no picture {i}')
            return X[i], Y[i]
    for call in doors(DataLoader(Lost(), 5)).values():
        found(r'no picture 10.*the last minibatch .*\(float32, \(5, 784\)\)',
              refused(call, FileNotFoundError))


@pytest.mark.parametrize('kw', [dict(loss_func=nn.CrossEntropyLoss(reduction='none')),
                                dict(opt_func=torch.optim.LBFGS), dict(bs=0), dict(bs=2.5)])
def test_pytorch_says_it_well(kw):
    refused(lambda: quiet(net(), PAIR, **kw), (RuntimeError, TypeError))


def test_an_error_of_the_model_keeps_its_type():
    class Failing(nn.Linear):
        def forward(self, x):
            raise KeyError('mine')
    assert 'mine' in refused(lambda: quiet(Failing(784, 10), PAIR), KeyError)
    assert len(quiet(net(), PAIR, opt_func=PlainSGD)) == 2


def test_each_fault_of_the_table_has_a_test():
    "Chapter 13 lists at most forty faults, each with its door and a test that there is."
    nb = json.loads((ROOT/'nbs/13_checks.ipynb').read_text(encoding='utf-8'))
    text = '\n'.join(''.join(cell['source']) for cell in nb['cells'])
    rows = re.findall(r'^\| (\d+) \|.*\| `(test_\w+\.py)::(\w+)` \|$', text, re.M)
    assert [int(number) for number, _, _ in rows] == [*range(1, 41)]
    for _, file, name in rows:
        assert re.search(rf'^def {name}\(', (ROOT/'tests'/file).read_text(), re.M), name
