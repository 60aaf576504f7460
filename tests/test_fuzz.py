"""Every public function with wrong types, shapes, dtypes, numbers and texts in each of its places,
and seeded pairs of them: an error that names the mistake, or a result; never a hang, never an error
from deep down, and nothing of the state of the process left changed."""
import random
import re
import signal
import sys
import traceback
import warnings
from contextlib import contextmanager
from math import inf, nan

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnist_mb import (data, distributed, drawing, evaluation, exercises, files, nll, playground,
                      precision, softmax, speed, training, tuning)

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

SECONDS = 20  # which only a hang takes


def honest(error, function, argument):
    "Is this an error that a mistake may raise?"
    if function.__module__ in LOOSE:
        return True
    if isinstance(error, ValueError | TypeError | IndexError | files.DataError):
        return True
    if isinstance(error, NotImplementedError):  # PyTorch's, of sparse tensors
        return True
    if isinstance(error, AttributeError):  # an optimizer is what has these two methods
        return argument == 'optimizer' and re.search('no attribute .(step|zero_grad)', str(error))
    frames = traceback.extract_tb(error.__traceback__)
    # What the user's model says itself, and a tensor where one number or yes and no is expected.
    return isinstance(error, RuntimeError) and (
        any(frame.name == '_call_impl' for frame in frames)
        or re.match('Boolean value of Tensor with', str(error)))


# Functions of the course, whose errors are PyTorch's, and those that mostly the package itself
# calls: their errors may be Python's own.
LOOSE = {'mnist_mb.softmax', 'mnist_mb.nll', 'mnist_mb.training', 'mnist_mb.exercises',
         'mnist_mb.speed', 'mnist_mb.drawing', 'mnist_mb.playground'}

# Not tried: what PyTorch or matplotlib take, and explain, themselves; the numbers and names that
# other functions pass, which they have looked at; texts that are printed as they are.
TAKEN = {'seed', 'generator', 'ax', 'axes', 'label', 'style',
         'Model.n_in', 'Model.nh', 'Model.n_out', 'report.loss', 'make_splits.n_valid',
         'show_images.x', 'show_images.y', 'show_images.cols', 'show_images.names',
         'find_dataset.name', 'load_mnist.name', 'plot_history.history'}

# The values. Each is made anew for each call, so that no call can spoil another's.
VALUES = {
    'None': lambda: None, 'text': lambda: 'x', 'no text': lambda: '', 'bytes': lambda: b'\0',
    'nan': lambda: nan, 'inf': lambda: inf, '-1': lambda: -1, '0': lambda: 0, '2.5': lambda: 2.5,
    'huge': lambda: 10**400, '1e308': lambda: 1e308, 'True': lambda: True, '1j': lambda: 1j,
    'object': object, 'type': lambda: int, 'len': lambda: len, 'list': list, 'tuple': tuple,
    'dict': dict, 'numbers': lambda: [1, 2], 'texts': lambda: ['a', 'b'], 'set': lambda: {1, 2},
    'generator': lambda: (i for i in range(3)), 'array': lambda: np.ones((6, 4)),
    'labels': lambda: np.arange(6) % 3, 'texts array': lambda: np.array(['a', 'b']),
    'frame': lambda: pd.DataFrame(np.ones((3, 3))), 'no frame': pd.DataFrame,
    'numpy 3': lambda: np.int64(3), 'numpy nan': lambda: np.float32(nan),
    'scalar': lambda: torch.tensor(1.), 'empty': lambda: torch.empty(0),
    'no rows': lambda: torch.empty(0, 4), 'no columns': lambda: torch.empty(6, 0),
    'row': lambda: torch.ones(4), 'rows': lambda: torch.ones(6, 4),
    'cube': lambda: torch.ones(6, 4, 2), 'double': lambda: torch.ones(6, 4).double(),
    'half': lambda: torch.ones(6, 4).half(), 'whole': lambda: torch.ones(6, 4).long(),
    'complex': lambda: torch.ones(6, 4).cfloat(), 'bool': lambda: torch.ones(6) > 0,
    'nans': lambda: torch.full((6, 4), nan), 'infs': lambda: torch.full((6, 4), inf),
    '-infs': lambda: torch.full((6, 4), -inf), 'large': lambda: torch.full((6, 4), 3e38),
    'negative': lambda: -torch.ones(6).long(), 'far': lambda: torch.full((6,), 2**62),
    'bytes tensor': lambda: torch.full((6,), 255).byte(), 'floats': lambda: torch.ones(6),
    'fewer': lambda: torch.zeros(5).long(), 'column': lambda: torch.zeros(6, 1).long(),
    'sparse': lambda: torch.eye(6, 4).to_sparse(),
    'graph': lambda: torch.ones(6, 4, requires_grad=True)*2, 'pair': lambda: (X(), Y()),
    'three': lambda: (X(), Y(), Y()), 'pairs': lambda: [(X(), Y())],
    'list of two': lambda: [X(), Y()],
    'module': lambda: nn.Linear(3, 2), 'module class': lambda: nn.Linear}


def X():
    return torch.arange(24.).reshape(6, 4) % 5


def Y():
    return torch.arange(6) % 3


def net():
    torch.manual_seed(0)
    return training.Model(4, 5, 3)


def probs():
    return (X()[:, :3]).softmax(1)


def table(**columns):
    return pd.DataFrame({name: [0.25, 0.5] for name in columns.get('names')})


def sgd(model):
    return training.PlainSGD(model.parameters(), 0.1)


def epoch():
    model = net()
    return dict(model=model, batches=[(X(), Y())], optimizer=sgd(model), loss_func=F.cross_entropy)


def fitted():
    return dict(model=net(), train=(X(), Y()), valid=(X(), Y()), epochs=1, bs=3, lr=0.1,
                loss_func=F.cross_entropy)


def counts():
    return pd.DataFrame(np.eye(3, dtype=int))


# What each function is given when nothing is wrong.
GOOD = {
    softmax.softmax: lambda: dict(x=X(), dim=-1), softmax.log_softmax: lambda: dict(x=X(), dim=-1),
    softmax.logsumexp: lambda: dict(x=X(), dim=-1),
    precision.precise_softmax: lambda: dict(x=X(), dim=-1),
    precision.precise_log_softmax: lambda: dict(x=X(), dim=-1),
    precision.precise_logsumexp: lambda: dict(x=X(), dim=-1, keepdim=False),
    nll.nll: lambda: dict(log_probs=probs().log(), target=Y()),
    nll.cross_entropy: lambda: dict(logits=X(), target=Y()),
    exercises.verdict: lambda: dict(ask=lambda: 3, cases=[('right', 3.)]),
    training.Model: lambda: dict(n_in=4, nh=5, n_out=3),
    training.accuracy: lambda: dict(logits=X(), target=Y()),
    training.report: lambda: dict(loss=torch.tensor(1.), preds=X(), yb=Y()),
    training.PlainSGD: lambda: dict(params=[X()], lr=0.1),
    training.minibatches: lambda: dict(x=X(), y=Y(), bs=4, shuffle=True,
                                       generator=torch.Generator()),
    training.eval_mode: lambda: dict(model=net()),
    training.evaluate: lambda: dict(model=net(), data=(X(), Y()), bs=4, loss_func=F.cross_entropy),
    training.train_epoch: epoch,
    training.fit: lambda: fitted() | dict(opt_func=training.PlainSGD, seed=0, progress=False,
                                          epoch_func=training.train_epoch, after_epoch=None),
    training.plot_history: lambda: dict(history=table(names=['train_loss', 'valid_loss'])),
    evaluation.predict: lambda: dict(model=net(), x=X(), bs=4),
    evaluation.accuracy_interval: lambda: dict(correct=3, n=5, z=1.96),
    evaluation.Comparison: lambda: dict(only_a=1, only_b=1, difference=0., low=0., high=0.,
                                        p_value=1.),
    evaluation.mcnemar: lambda: dict(right_a=Y() > 0, right_b=Y() > 1),
    evaluation.confusion_matrix: lambda: dict(model=net(), x=X(), y=Y()),
    evaluation.plot_confusion: lambda: dict(counts=counts(), ax=None),
    evaluation.recall: lambda: dict(counts=counts()),
    evaluation.top_losses: lambda: dict(model=net(), x=X(), y=Y(), n=3),
    evaluation.calibration_table: lambda: dict(probs=probs(), y=Y(), bins=4),
    evaluation.plot_calibration: lambda: dict(
        table=evaluation.calibration_table(probs(), Y(), 4), axes=None, label='', style='o-'),
    evaluation.expected_calibration_error: lambda: dict(probs=probs(), y=Y(), bins=4),
    evaluation.fit_temperature: lambda: dict(logits=X(), y=Y()),
    tuning.lr_find: lambda: dict(model=net(), train=(X(), Y()), low=0.1, high=1., steps=3, bs=4,
                                 loss_func=F.cross_entropy, opt_func=torch.optim.SGD, seed=0),
    tuning.plot_lr_find: lambda: dict(table=table(names=['loss']), ax=None, label='', style='-'),
    distributed.shard: lambda: dict(xb=X(), yb=Y(), rank=1, size=2),
    distributed.distributed_epoch: epoch,
    distributed.ranks: dict,
    distributed.process_group: lambda: dict(device='cpu', timeout=5),
    distributed.why_stopped: lambda: dict(error=RuntimeError('x')),
    data.Splits: lambda: dict(pairs=((X(), Y()),)*3, name='n', source='s'),
    data.make_splits: lambda: dict(train=(np.full((9, 28, 28), 9), np.arange(9)),
                                   test=(np.full((9, 28, 28), 9), np.arange(9)), n_valid=3,
                                   seed=0),
    data.show_images: lambda: dict(x=torch.ones(2, 784), y=Y()[:2], names=None, cols=2),
    drawing.draw: lambda: dict(n=2, generator=torch.Generator()),
    playground.center_of_mass: lambda: dict(images=torch.ones(2, 28, 28)),
    playground.as_mnist: lambda: dict(image=torch.eye(28), threshold=0.),
    playground.find_ink: lambda: dict(picture=torch.eye(28), threshold=0.),
    playground.pixel_contributions: lambda: dict(model=wide(), x=torch.ones(2, 784),
                                                 target=torch.tensor([0, 1])),
    playground.quantized: lambda: dict(model=wide(), bits=16),
    playground.sketchpad: lambda: dict(model=wide(), classes=None, examples=None, bits=16),
    speed.best_times: lambda: dict(ways={'a': lambda: 1}, rounds=1),
    speed.matmul_floor: lambda: dict(x=X(), nh=3, bs=2),
    speed.manual_epoch: epoch,
    speed.plot_benchmark: lambda: dict(table=pd.DataFrame({'ratio': [1., 2.]}, ['a', 'b'])),
    files.parse_idx: lambda: dict(content=b'\0\0\x08\1\0\0\0\1\7'),
    files.find_dataset: lambda: dict(path='nowhere', download=False, name='mnist'),
    data.load_mnist: lambda: dict(path='nowhere', download=False, name='mnist'),
    data.get_data: lambda: dict(source='nowhere')}


def wide():
    torch.manual_seed(0)
    return training.Model(784, 5, 3)


# -- the state of the process

def state():
    return dict(threads=torch.get_num_threads(), rng=torch.get_rng_state().numpy().tobytes(),
                numpy=np.random.get_state()[1].tobytes(), python=hash(random.getstate()),
                dtype=torch.get_default_dtype(), grad=torch.is_grad_enabled(),
                rc=hash(repr(sorted(dict.items(matplotlib.rcParams)))), figures=plt.get_fignums(),
                shown=repr(torch._tensor_str.PRINT_OPTS), path=len(sys.path))


@contextmanager
def bounded(what):
    def stop(*_):
        raise AssertionError(f'{what} hangs')
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(function, kwargs):
    "Call, and go through what comes lazily; the error, or None."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            result = function(**kwargs)
            if function is training.minibatches:
                list(result)
            elif function in CONTEXTS:
                with result:
                    pass
        except Exception as error:
            return error


def faults(function, kwargs, what):
    model = kwargs.get('model')
    modes = [p.training for p in model.modules()] if isinstance(model, nn.Module) else []
    before = state()
    with bounded(what):
        error = attempt(function, kwargs)
    after = state()
    if error is not None and not honest(error, function, what.partition('=')[0]):
        yield f'{what}: {type(error).__name__}: {str(error)[:150]}'
    if error is None:
        plt.close('all')
        after['figures'] = []
        before['figures'] = []
    if error is None and function in DRAWS:
        after['rng'] = before['rng']
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        yield f'{what} changes {changed}'
    if modes and function not in TRAINS:
        if modes != [p.training for p in model.modules()]:
            yield f'{what} changes the mode'
        if function is not training.fit and any(p.grad is not None for p in model.parameters()):
            yield f'{what} leaves gradients'
    plt.close('all')


CONTEXTS = {training.eval_mode, distributed.process_group}
DRAWS = {training.minibatches, training.Model, training.fit, playground.sketchpad, tuning.lr_find,
         playground.quantized}
TRAINS = {training.train_epoch, training.fit, speed.manual_epoch, distributed.distributed_epoch}


def names(function):
    return f'{function.__module__.rpartition(".")[2]}.{function.__qualname__}'


def places(function):
    "The arguments that are tried."
    return [name for name in GOOD[function]()
            if not TAKEN & {name, f'{function.__name__}.{name}'}]


@pytest.mark.parametrize('function', GOOD, ids=names)
def test_each_argument(function, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MNIST_MB_OFFLINE', '1')
    found = list(faults(function, GOOD[function](), 'nothing'))
    for name in places(function):
        for value, make in VALUES.items():
            found += faults(function, GOOD[function]() | {name: make()}, f'{name}={value}')
    assert not found, '\n'.join([f'{len(found)} faults', *found])
    assert not list(tmp_path.iterdir())


def test_pairs_of_arguments(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MNIST_MB_OFFLINE', '1')
    dice, found = random.Random(0), []
    several = [function for function in GOOD if len(places(function)) > 1]
    for _ in range(1000):
        function = dice.choice(several)
        chosen = {name: dice.choice([*VALUES]) for name in dice.sample(places(function), 2)}
        wrong = {name: VALUES[value]() for name, value in chosen.items()}
        found += faults(function, GOOD[function]() | wrong, f'{names(function)} {chosen}')
    assert not found, '\n'.join([f'{len(found)} faults', *found])


@pytest.mark.parametrize('module', [softmax, nll, exercises, training, evaluation, tuning,
                                    precision, distributed], ids=lambda module: module.__name__)
def test_every_public_function_is_tried(module):
    public = {getattr(module, name) for name in module.__all__} - {distributed.together}
    assert public <= GOOD.keys()  # (together waits for other processes)
