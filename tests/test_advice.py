"""A message that names a cure is tried: the input that leads to it, then the cure. Each message of
the package is in one of two tables, those with a cure and those that only say what is wrong."""
import ast
import io
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mnist_mb.cli import mnist_mb_predict
from mnist_mb.data import get_data, load_mnist, make_splits, show_images
from mnist_mb.evaluation import predict, top_losses
from mnist_mb.files import check_output
from mnist_mb.playground import as_mnist, sketchpad
from mnist_mb.precision import precise_softmax
from mnist_mb.speed import manual_epoch
from mnist_mb.training import Model, evaluate, fit, train_epoch

ROOT = Path(__file__).parent.parent
Y = torch.arange(130) % 10
X = torch.rand(130, 784, generator=torch.Generator().manual_seed(0))/4 + F.one_hot(Y, 784)/2
BYTES = (X*255).byte().numpy().reshape(-1, 28, 28)
ODD = X.clone()
ODD[9, 9] = float('nan')
IGNORED = Y.where(Y > 0, -100)
NORMED = nn.Sequential(nn.Linear(784, 9), nn.BatchNorm1d(9), nn.Linear(9, 10))
PEN = torch.zeros(100, 100)
PEN[20:80, 47:53] = 0.4
HAIR = torch.eye(500)
ONE = Image.fromarray((255 - 500*PEN).byte().numpy())


def net(n=10):
    torch.manual_seed(1)
    return Model(784, 8, n)


def train(x=X, y=Y, *args, model=None, **kw):
    history = fit(model or net(), (x, y) if y is not None else x, *args, epochs=1, progress=False,
                  **kw)
    assert np.isfinite(history.train_loss[1])


def judged(*data):
    assert evaluate(net(), data if len(data) == 2 else data[0]) == evaluate(net(), (X, Y))


def loader(x=X, y=Y, bs=50, **kw):
    return DataLoader(TensorDataset(x, y), bs, **kw)


def pairs(rows):
    return tuple(torch.stack([row[key] for row in rows]) for key in ('image', 'label'))


ROWS = [{'image': x, 'label': y} for x, y in zip(X, Y)]
PARTS = [*zip(X.split(50), Y.split(50))]


def frozen():
    return net().requires_grad_(False)


def saved(model, names=None):
    "Weights, as a picture is read with them."
    state = model.state_dict()
    torch.save(dict(zip(names or state, state.values())), file := 'w.pt')
    ONE.save('1.png')
    mnist_mb_predict(file, '1.png')


def picture(kind):
    ONE.save(file := io.BytesIO(), kind)
    as_mnist(file)


def output(**kw):
    Path('old').touch()
    check_output('old', **kw)


def sorted_rows(**kw):
    order = Y.argsort()
    make_splits((BYTES[order], Y[order]), (BYTES, Y), 30, **kw)


# words of the message: (what leads to it, what helps)
ADVICE = {
    'torch.as_tensor makes them': [
        (lambda: evaluate(net(), (X.numpy(), Y.numpy())),
         lambda: judged(*map(torch.as_tensor, (X.numpy(), Y.numpy()))))],
    'y.squeeze(1)': [
        (lambda: judged(X, Y[:, None]), lambda: judged(X, Y[:, None].squeeze(1))),
        (lambda: train(loader(y=Y[:, None]), None),
         lambda: train(loader(y=Y[:, None].squeeze(1)), None))],
    'y.argmax(1)': [
        (lambda: judged(X, F.one_hot(Y)), lambda: judged(X, F.one_hot(Y).argmax(1))),
        (lambda: judged(X, 0.6*F.one_hot(Y) + 0.04),
         lambda: judged(X, (0.6*F.one_hot(Y) + 0.04).argmax(1)))],
    'y.long()': [(lambda: judged(X, Y.float()), lambda: judged(X, Y.float().long()))],
    'x[y >= 0], y[y >= 0]': [
        (lambda: train(y=IGNORED), lambda: train(X[IGNORED >= 0], IGNORED[IGNORED >= 0]))],
    'pass a DataLoader, or a list': [
        (lambda: train(iter(PARTS), None), lambda: train([*iter(PARTS)], None)),
        (lambda: train(iter(loader()), None), lambda: train(loader(), None))],
    'a nan in x, or is lr too large?': [
        (lambda: train(lr=1e30), lambda: train(lr=0.1)),
        (lambda: train(ODD), lambda: train(ODD.nan_to_num()))],
    'x.flatten(1)': [
        (lambda: judged(X.view(-1, 28, 28), Y), lambda: judged(X.view(-1, 28, 28).flatten(1), Y))],
    'of bytes, x.float()/256; else x.float()': [
        (lambda: train((X*255).byte()), lambda: train((X*255).byte().float()/256)),
        (lambda: train(X.double()), lambda: train(X.double().float()))],
    'has two outputs': [
        (lambda: train(y=Y % 2, model=net(1)), lambda: train(y=Y % 2, model=net(2)))],
    'such as nn.CrossEntropyLoss()': [
        (lambda: train(loss_func=nn.CrossEntropyLoss),
         lambda: train(loss_func=nn.CrossEntropyLoss()))],
    'another bs, or a DataLoader with drop_last=True': [
        (lambda: train(X[:51], Y[:51], model=NORMED),
         lambda: train(X[:51], Y[:51], model=NORMED, bs=17)),
        (lambda: train(loader(X[:51], Y[:51]), None, model=NORMED),
         lambda: train(loader(X[:51], Y[:51], drop_last=True), None, model=NORMED))],
    'model.requires_grad_() frees them': [
        (lambda: train(model=frozen()), lambda: train(model=frozen().requires_grad_()))],
    'with drop_last, a': [
        (lambda: train(loader(bs=500, drop_last=True), None), lambda: train(loader(bs=500), None))],
    'collate_fn for the DataLoader': [
        (lambda: train(DataLoader(ROWS, 10), None),
         lambda: train(DataLoader(ROWS, 10, collate_fn=pairs), None)),
        (lambda: judged(DataLoader(ROWS, 10)),
         lambda: judged(DataLoader(ROWS, 130, collate_fn=pairs)))],
    'a tuple (x, y) of ': [
        (lambda: judged([X, Y]), lambda: judged(X, Y)),
        (lambda: predict(net(), X.numpy()),
         lambda: predict(net(), torch.as_tensor(X.numpy())))],
    'weights of 784 to ': [
        (lambda: saved(net(), ('a', 'b', 'c', 'd')),
         lambda: saved(net(), ('0.weight', '0.bias', '2.weight', '2.bias'))),
        (lambda: saved(nn.Linear(784, 10)), lambda: saved(net()))],
    'or say ': [
        (output, lambda: check_output('new')),
        (output, lambda: output(overwrite=True))],
    'they must be bytes, from 0 to 255': [
        (lambda: make_splits((BYTES/256, Y), (BYTES, Y), 10),
         lambda: make_splits((BYTES/256*256, Y), (BYTES, Y), 10))],
    'a class number: 0, 1, 2': [
        (lambda: make_splits((BYTES, Y/2), (BYTES, Y), 0),
         lambda: make_splits((BYTES, np.unique(Y/2, return_inverse=True)[1]), (BYTES, Y), 0))],
    'of color images, average the colors': [
        (lambda: show_images(torch.rand(2, 3, 28, 28)),
         lambda: show_images(torch.rand(2, 3, 28, 28).mean(1)))],
    'seed=0 shuffles': [(sorted_rows, lambda: sorted_rows(seed=0))],
    'pass their logarithm': [
        (lambda: top_losses(net()(X).softmax(1), Y),
         lambda: top_losses(net()(X).softmax(1).log(), Y))],
    'take a thicker pen': [
        (lambda: as_mnist(HAIR), lambda: as_mnist(F.max_pool2d(HAIR[None], 31, 1, 15)[0]))],
    'grayscale: average the colors first': [
        (lambda: as_mnist(PEN.repeat(3, 1, 1)), lambda: as_mnist(PEN.repeat(3, 1, 1).mean(0)))],
    'should be from 0 to 1, or bytes': [
        (lambda: as_mnist(PEN*500), lambda: as_mnist((PEN*500).byte())),
        (lambda: as_mnist(PEN*500), lambda: as_mnist(PEN*500/255))],
    'JPEG or PNG': [
        (lambda: as_mnist(b'\0\0\0\x18ftypheic'), lambda: picture('JPEG')),
        (lambda: as_mnist(b'%PDF-1.4'), lambda: picture('PNG'))],
    'computes nn.Linear and nn.ReLU in': [
        (lambda: sketchpad(nn.Sequential(net(), nn.Softmax(1))), lambda: sketchpad(net()))],
    'pass a tensor, as x.float()': [
        (lambda: precise_softmax(Y), lambda: precise_softmax(Y.float())),
        (lambda: precise_softmax([1., 2.]), lambda: precise_softmax(torch.tensor([1., 2.])))],
    'use ': [
        (lambda: train(epoch_func=manual_epoch, opt_func=torch.optim.Adam),
         lambda: train(epoch_func=train_epoch, opt_func=torch.optim.Adam))]}
TRIED_ELSEWHERE = {"get_data('mnist') says how", 'By hand: put these four files',
                   'or into a folder of yours'}
ONLY_WRONG = {
    'rows of x and', 'should be … class', 'an output is an input', 'that are inf or nan',
    '--fast is for one process', 'it must be positive', ", device '", 'interrupted after',
    'in one for testing', 'it must be a whole', 'they must be (n, classes)', 'but there are',
    'have a logit', 'no temperature is best', ', where … of', 'it lacks', 'no IDX file',
    'too many for MNIST', 'and downloading is off', 'it is not run', 'too large for MNIST',
    'are no MNIST', 'too slow or too long', "can't write", 'passed over', 'a damaged gzip',
    'is blank, or its ink', 'names, and the model', 'check the ink', 'loss of the first step',
    'labels go from 0', 'for the untouched model', 'the last minibatch …: ', '. …', '\n', '… (…)'}


def literal(node):
    "The text of an expression, … for what is put in."
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ''
    if isinstance(node, ast.JoinedStr):
        return ''.join(v.value if isinstance(v, ast.Constant) else '…' for v in node.values)
    if isinstance(node, ast.BinOp):
        return literal(node.left) + literal(node.right)
    return ''


def messages():
    "What the package raises, warns and notes, as (module, text)."
    for path in sorted((ROOT/'mnist_mb').glob('[a-z]*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield from ((path.stem, literal(arg)) for arg in node.exc.args[:1])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == 'warnings.warn':
                yield path.stem, literal(node.args[0])
            elif isinstance(node, ast.Dict) and path.stem == 'checks':
                yield from ((path.stem, literal(value)) for value in node.values)
            elif isinstance(node, ast.FunctionDef) and node.name in ('_about', '_cure', '_by_hand'):
                yield from ((path.stem, literal(part)) for end in ast.walk(node)
                            if isinstance(end, ast.Return) for part in ast.walk(end)
                            if isinstance(part, ast.Constant | ast.JoinedStr))


def test_each_message_is_in_one_of_the_tables():
    texts = {text for _, text in messages() if len(text) > 25}
    known = [*ADVICE, *TRIED_ELSEWHERE, *ONLY_WRONG]
    assert len(texts) > 40
    assert not {text for text in texts if not any(words in text for words in known)}
    everything = '\n'.join(text for _, text in messages())
    assert not [words for words in (*ADVICE, *TRIED_ELSEWHERE) if words not in everything]


@pytest.mark.parametrize('words', ADVICE)
def test_the_cure_works(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for fails, cured in ADVICE[words]:
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            with pytest.raises(Exception) as caught:
                fails()
            told = '\n'.join([str(caught.value), *getattr(caught.value, '__notes__', [])])
            assert words.strip() in told, told
            cured()


@pytest.mark.mnist
def test_mnist_by_hand(mnist, monkeypatch, tmp_path):
    "What `get_data` warns of leads to what `get_data('mnist')` says, and that to MNIST."
    for name, value in (('MNIST_MB_OFFLINE', '1'), ('MNIST_MB_CACHE', str(tmp_path/'cache'))):
        monkeypatch.setenv(name, value)
    here = Path(mnist.source)
    monkeypatch.delenv('MNIST_MB_DATA')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='By hand') as caught:
        get_data('mnist')
    files = re.findall(r'^  (\S+-ubyte)\.gz$', str(caught.value), re.M)
    folder = Path(re.search('^into (.*), or into', str(caught.value), re.M)[1])
    folder.mkdir(parents=True)
    for file in files:
        for found in here.glob(f'{file}*'):
            shutil.copy(found, folder)
    assert len(files) == 4 and len(load_mnist(download=False)[2][1]) == 10_000
