"""Splits, where the data comes from, and the drawn digits that stand in."""
import os
import pickle
import subprocess
import sys
import warnings
from math import ceil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from running import ROOT, read
from torch import nn

import mnist_mb.data
from mnist_mb import data, drawing
from mnist_mb.checks import verdict
from mnist_mb.data import (
    CLASSES, DataError, Splits, drawn_digits, get_data, load_mnist, make_splits, show_images)
from mnist_mb.drawing import draw
from mnist_mb.files import DATASETS, cache_folder


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    "No file, no cache, no network."
    for name, value in (('DATA', ''), ('OFFLINE', '1'), ('CACHE', str(tmp_path/'cache'))):
        monkeypatch.setenv(f'MNIST_MB_{name}', value)
    monkeypatch.chdir(tmp_path)
    data._warn_once.cache_clear()
    return tmp_path


IMAGES = np.arange(6*784).astype(np.uint8).reshape(6, 28, 28)
NUMBERS = np.arange(6, dtype=np.uint8)


def test_public_names():
    assert set(data.__all__) == {
        'CLASSES', 'DataError', 'Splits', 'drawn_digits', 'get_data', 'load_mnist', 'make_splits',
        'show_images'}
    assert set(CLASSES) == {*DATASETS, 'drawn'}
    assert all(len(names) == 10 for names in CLASSES.values())


# make_splits
@pytest.mark.parametrize('kind', [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_make_splits(kind):
    images, labels = kind(IMAGES), kind(NUMBERS)
    splits = make_splits((images, labels), (images[:2], labels[:2]), 2, name='toy', source='here')
    shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in splits]
    assert shapes == [((4, 784), (4,)), ((2, 784), (2,)), ((2, 784), (2,))]
    assert {(x.dtype, y.dtype) for x, y in splits} == {(torch.float32, torch.int64)}
    assert [y.tolist() for _, y in splits] == [[0, 1, 2, 3], [4, 5], [0, 1]]
    assert torch.equal(256*splits[1][0], torch.as_tensor(IMAGES[4:]).reshape(2, 784).float())
    assert (splits.name, splits.source) == ('toy', 'here')
    assert repr(splits) == "Splits('toy', rows: 4, 2, 2)"


def test_splits_is_a_tuple_of_pairs():
    (x, y), _, _ = splits = make_splits((IMAGES, NUMBERS), (IMAGES, NUMBERS), 1)
    assert isinstance(splits, tuple) and splits.name == splits.source == ''
    assert isinstance(Splits(), tuple) and len(x) == len(y) == 5


@pytest.mark.parametrize('images, labels, n_valid, words', [
    (np.random.rand(6, 784), NUMBERS, 2, 'they must be bytes'),
    (IMAGES/255, NUMBERS, 2, 'pixels from 0 to 1;'),
    (IMAGES.astype(int) - 1, NUMBERS, 2, 'pixels from -1 to 254;'),
    (IMAGES.astype(int) + 1, NUMBERS, 2, 'pixels from 0 to 256;'),
    (IMAGES*np.nan, NUMBERS, 2, 'pixels from nan'), (IMAGES > 9, NUMBERS, 2, 'pixels from 0 to 1;'),
    (IMAGES % 2, NUMBERS, 2, 'pixels from 0 to 1;'),
    (IMAGES, NUMBERS[:3], 2, r'6 images, but labels of shape \(3,\)'),
    (IMAGES, np.eye(6), 2, r'6 images, but labels of shape \(6, 6\)'),
    (IMAGES, NUMBERS/2, 2, 'must be class numbers'),
    (IMAGES, NUMBERS.astype(int) - 1, 2, 'class numbers'),
    (IMAGES, [0, 1, 2, 3, 4, np.nan], 2, 'class numbers'), (IMAGES, [*'abcdef'], 2, "float: '?'a'"),
    (IMAGES[:0], NUMBERS[:0], 0, 'n_valid is 0, of 0 images'),
    (IMAGES, NUMBERS, -1, 'n_valid is -1'), (IMAGES, NUMBERS, 6, 'n_valid is 6, of 6 images'),
    (IMAGES, NUMBERS, 50, 'n_valid is 50')])
def test_make_splits_refuses(images, labels, n_valid, words):
    with pytest.raises(ValueError, match=words):
        make_splits((images, labels), (IMAGES, NUMBERS), n_valid)


@pytest.mark.parametrize('labels', [NUMBERS.astype(float), [*'012345'], pd.Series([*'012345'])])
def test_make_splits_takes_whole_floats(labels):
    x, y = make_splits((IMAGES.astype(float), labels), (IMAGES, NUMBERS), 0)[0]
    assert y.tolist() == NUMBERS.tolist()
    assert torch.equal(256*x, torch.as_tensor(IMAGES).reshape(6, 784).float())


# load_mnist and get_data
def test_load_mnist_names_what_there_is():
    with pytest.raises(ValueError, match="name is 'mnits'; it can be one of mnist, fashion"):
        load_mnist(name='mnits')


def test_load_mnist_makes_splits_of_what_is_found(monkeypatch):
    asked = []

    def find(*args):
        asked.append(args)
        return [np.zeros((60_000, 2, 2), np.uint8), np.arange(60_000) % 10,
                np.full((10_000, 2, 2), 7, np.uint8), np.zeros(10_000)], 'here'
    monkeypatch.setattr(data, 'find_dataset', find)
    splits = load_mnist('path', False, 'kmnist')
    assert asked == [('path', False, 'kmnist')]
    assert (splits.name, splits.source) == ('kmnist', 'here')
    assert [len(y) for _, y in splits] == [50_000, 10_000, 10_000] and splits[2][0][0, 0] == 7/256
    load_mnist()
    assert asked[1] == (None, True, 'mnist')


def test_without_anything(nothing):
    with pytest.raises(DataError, match='no mnist here, and downloading is off\nBy hand'):
        load_mnist()
    with pytest.raises(DataError, match='By hand'):
        get_data('mnist')
    with pytest.raises(DataError, match='no kmnist here'):
        get_data('kmnist')
    with pytest.raises(DataError, match='no file or folder a-path'):
        get_data('a-path')
    with pytest.raises(DataError, match='folder MNIST; did you mean the set mnist'):
        get_data('MNIST')


@pytest.fixture
def quick(monkeypatch):
    "Drawing takes no time."
    monkeypatch.setattr(data, 'drawn_digits', lambda: 'drawn')


def test_auto_says_once_that_it_draws(nothing, quick):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        assert [get_data(), get_data('auto'), get_data()] == ['drawn']*3
    assert len(seen) == 1 and seen[0].filename == __file__
    text = str(seen[0].message)
    assert text.startswith('drawn digits, not MNIST (no mnist here') and '\n' not in text
    assert len(text) < 200 and "get_data('mnist')" in text


def test_auto_draws_where_everything_is_closed(nothing, quick, user, monkeypatch):
    monkeypatch.chdir(user)
    monkeypatch.setenv('MNIST_MB_CACHE', str(user/'cache'))
    monkeypatch.setenv('MNIST_MB_OFFLINE', '')  # it can't fetch, since it can't keep
    for name in ('data', 'cache'):
        (user/name).mkdir(mode=0)
    try:
        with pytest.warns(UserWarning, match="drawn digits, not MNIST .can't write into .*cache"):
            assert get_data() == 'drawn'
    finally:
        for name in ('data', 'cache'):
            (user/name).chmod(0o700)


def test_a_named_folder_must_be_right(nothing, quick, monkeypatch):
    monkeypatch.setenv('MNIST_MB_DATA', 'nowhere')
    for source in ('auto', 'mnist'):
        with pytest.raises(DataError, match='no file or folder nowhere'):
            get_data(source)


@pytest.mark.parametrize('source, asked', [
    ('mnist', dict(name='mnist')), ('kmnist', dict(name='kmnist')), ('some/path', 'some/path'),
    (Path('some/path'), Path('some/path')), ('auto', None)])
def test_get_data_asks_for_what_is_meant(source, asked, monkeypatch):
    monkeypatch.setattr(data, 'load_mnist', lambda path=None, **kw: kw or path)
    assert get_data(source) == asked


def test_get_data_raises_what_was_asked_for_by_name(nothing, quick, monkeypatch):
    def refuse(*_, **__):
        raise DataError('nothing')
    monkeypatch.setattr(data, 'load_mnist', refuse)
    for source in ('mnist', 'fashion', 'some/path'):
        with pytest.raises(DataError, match='nothing'):
            get_data(source)
    assert get_data('drawn') == 'drawn'


@pytest.mark.mnist
def test_real_mnist(mnist):
    assert mnist.name == 'mnist' and Path(mnist.source).exists()
    assert [tuple(x.shape) for x, _ in mnist] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    (x, y), (_, y_valid), (_, y_test) = mnist
    assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert y.bincount().tolist() == [4932, 5678, 4968, 5101, 4859, 4506, 4951, 5175, 4842, 4988]
    assert y_valid.bincount().tolist() == [991, 1064, 990, 1030, 983, 915, 967, 1090, 1009, 961]
    assert y_test.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    found = [x.mean().item(), x.std().item(), (x == 0).float().mean().item()]
    assert found == pytest.approx([0.1304, 0.3073, 0.8086], abs=5e-5) and x.max() == 0.99609375


@pytest.mark.mnist
def test_both_layouts_give_the_same_bits(mnist):
    other = Path(mnist.source)/'mnist.pkl.gz'
    if not other.is_file():
        pytest.skip(f'needs {other}')
    for one, two in zip(mnist, load_mnist(other), strict=True):
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, two))


@pytest.mark.mnist
@pytest.mark.slow
def test_batch_sizes_learn_alike(mnist):
    "What chapter 00 says of 10 and 50 rows, and of 1,000; one row at a time is on the page itself."
    (x, y), (x_valid, y_valid), _ = mnist

    def accuracy(bs, lr):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        for rows in torch.randperm(len(x)).split(bs):
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
        return (model(x_valid).argmax(1) == y_valid).float().mean().item()
    ten, fifty, thousand = accuracy(10, 0.1), accuracy(50, 0.5), accuracy(1000, 0.5)
    assert 0.94 < fifty < 0.97 and abs(ten - fifty) < 0.015 and thousand < fifty - 0.03


# drawn digits
def test_drawn_digits(drawn):
    assert drawn.name == 'drawn' and 'seed 0' in drawn.source
    for (x, y), n in zip(drawn, (50_000, 10_000, 10_000), strict=True):
        assert x.shape == (n, 784) and y.shape == (n,)
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.min() == 0 and 0.9 < x.max() < 1 and y.min() == 0 and y.max() == 9


def test_drawn_digits_are_those_of_the_seed(drawn):
    "A cache may come from a processor that rounds otherwise, so a pixel may differ a little."
    generator = torch.Generator().manual_seed(0)
    parts = [draw(250, generator) for _ in range(2)]
    images = torch.cat([image for image, _ in parts]).reshape(500, 784).float()
    (x, y), _, _ = drawn
    assert torch.equal(y[:500], torch.cat([digit for _, digit in parts]))
    assert ((256*x[:500] - images).abs() > 2).float().mean() < 1e-3


def test_drawn_digits_and_their_copy(nothing, monkeypatch):
    calls = []

    def blank(n, generator):
        calls.append(generator.initial_seed())
        return torch.full((n, 28, 28), len(calls) % 256).byte(), torch.full((n,), 3)
    monkeypatch.setattr(drawing, 'draw', blank)
    (x, y), _, (x_test, _) = drawn_digits(7)
    assert set(calls) == {7} and len(calls) == 280 and (y == 3).all()
    assert x[0, 0]*256 == 1 and x_test[-1, 0]*256 == 280 % 256
    again = drawn_digits(7)
    assert len(calls) == 280 and torch.equal(again[0][0], x)
    drawn_digits()
    assert len(calls) == 560 and len(os.listdir(cache_folder())) == 2


def test_drawn_digits_without_a_cache(nothing, monkeypatch):
    blank = torch.zeros(250, 28, 28).byte(), torch.zeros(250)
    monkeypatch.setattr(drawing, 'draw', lambda n, generator: blank)
    (nothing/'wall').touch()
    monkeypatch.setenv('MNIST_MB_CACHE', str(nothing/'wall'/'cache'))
    assert drawn_digits()[2][0].shape == (10_000, 784)


def test_splits_can_be_pickled_and_copied():
    splits = make_splits((IMAGES, NUMBERS), (IMAGES, NUMBERS), 1, name='toy', source='here')
    again = pickle.loads(pickle.dumps(splits))
    assert (again.name, again.source, len(again)) == ('toy', 'here', 3)


# show_images
@pytest.fixture
def closing():
    yield
    plt.close('all')


@pytest.mark.parametrize('kind', [torch.as_tensor, np.asarray])
@pytest.mark.parametrize('shape', [(12, 784), (12, 28, 28)])
def test_show_images(kind, shape, closing):
    x = np.random.default_rng(0).random((12, 784), dtype=np.float32)
    axes = show_images(kind(x.reshape(shape)), kind(np.arange(12) % 10), cols=5)
    assert [ax.get_title() for ax in axes] == [str(i % 10) for i in range(12)]
    for ax, image in zip(axes, x, strict=True):
        assert np.array_equal(ax.images[0].get_array(), image.reshape(28, 28))
        assert ax.images[0].get_cmap().name == 'gray_r' and not ax.axison
    assert axes[0].get_subplotspec().get_gridspec().get_geometry() == (3, 5)


def test_show_one_image_and_names(closing):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(show_images(torch.rand(784, requires_grad=True))) == 1
        assert len(show_images(torch.rand(28, 28))) == 1
        named = show_images(torch.rand(2, 784), torch.tensor([0, 9]), CLASSES['fashion'])
    assert [ax.get_title() for ax in named] == ['T-shirt/top', 'ankle boot']


@pytest.mark.parametrize('x, y, words', [
    (torch.zeros(3, 100), None, r'\(3, 100\) is not'), (torch.zeros(3, 784), [1, 2], '3 images'),
    (torch.tensor(0.), None, 'is not'), (np.zeros((3, 784)), np.zeros(4), '3 images, but 4')])
def test_show_images_refuses(x, y, words, closing):
    with pytest.raises(ValueError, match=words):
        show_images(x, y)
    assert not plt.get_fignums()


def test_import_does_nothing(nothing):
    code = ('import os, sys; before = set(os.listdir()); import mnist_mb.data, mnist_mb.files, '
            'mnist_mb.drawing; assert set(os.listdir()) == before; '
            'assert not {"matplotlib", "pooch", "requests", "pandas"} & set(sys.modules)')
    env = os.environ | {'PYTHONPATH': str(Path(mnist_mb.data.__file__).parent.parent)}
    subprocess.run([sys.executable, '-c', code], check=True, env=env)
    assert not cache_folder().exists()


# the checks of the exercises: right answers pass, slips are named
@pytest.fixture(scope='module')
def checks():
    "The functions of the notebook's folded cells that check an exercise."
    names = dict(torch=torch, np=np, verdict=verdict)
    for cell in read(ROOT/'nbs'/'00_data.ipynb').cells:
        if 'def check_' in cell.source:
            exec(cell.source, names)
    return names


def shares(y):
    return torch.bincount(y, minlength=10)/len(y)


def bookkeeping(n, bs):
    count = -(-n//bs)
    return count, n - (count - 1)*bs


def cut(x, y, bs):
    return [(x[i:i+bs], y[i:i+bs]) for i in range(0, len(x), bs)]


@pytest.mark.parametrize('check, answer', [
    ('shares', shares), ('shares', lambda y: [(y == d).float().mean() for d in range(10)]),
    ('shares', lambda y: np.bincount(y.numpy(), minlength=10)/8),
    ('shares', lambda y: torch.bincount(y, minlength=10).half()/8),
    ('bookkeeping', bookkeeping), ('bookkeeping', lambda n, bs: [ceil(n/bs), (n - 1) % bs + 1]),
    ('bookkeeping', lambda n, bs: torch.tensor(bookkeeping(n, bs))),
    ('bookkeeping', lambda n, bs: (ceil(n/bs), n % bs or bs)),
    ('cut', cut), ('cut', lambda x, y, bs: list(zip(x.split(bs), y.split(bs)))),
    ('cut', lambda x, y, bs: (pair for pair in cut(x, y, bs)))])
def test_right_answers(check, answer, checks):
    assert checks[f'check_{check}'](answer).startswith('right')


@pytest.mark.parametrize('check, answer, words', [
    ('shares', lambda y: ..., 'not solved yet'), ('shares', lambda y: None, 'not solved yet'),
    ('shares', lambda y: torch.bincount(y, minlength=10), 'counts'),
    ('shares', lambda y: torch.bincount(y)/8, 'after the largest'),
    ('shares', lambda y: y.unique(return_counts=True)[1]/8, 'do not occur'),
    ('shares', lambda y: 100*shares(y), 'percent'), ('shares', lambda y: 1/8, 'shape'),
    ('shares', lambda y: [0.1]*10, 'right one has'), ('shares', lambda y: y[99], 'IndexError'),
    ('bookkeeping', lambda n, bs: None, 'not solved yet'),
    ('bookkeeping', lambda n, bs: (n//bs, n % bs), 'the short one counts'),
    ('bookkeeping', lambda n, bs: (n//bs, n % bs or bs), 'the short one counts'),
    ('bookkeeping', lambda n, bs: (ceil(n/bs), n % bs), 'never empty'),
    ('bookkeeping', lambda n, bs: (ceil(n/bs), bs), 'has what is left'),
    ('bookkeeping', lambda n, bs: (n//bs + 1, n % bs), 'no short one follows'),
    ('bookkeeping', lambda n, bs: n/bs, 'returns one number, two are asked'),
    ('bookkeeping', lambda n, bs: (float('nan'), 1), 'not right'),
    ('bookkeeping', lambda n, bs: bookkeeping(n, bs)[::-1], 'first the number'),
    ('bookkeeping', lambda n, bs: 1/0, 'ZeroDivisionError'),
    ('cut', lambda x, y, bs: None, 'not solved yet'),
    ('cut', lambda x, y, bs: cut(x, y, bs)[:-1], 'the short one at the end'),
    ('cut', lambda x, y, bs: [(x[i:i+bs], y[i:i+bs]) for i in range(len(x))], 'before ended'),
    ('cut', lambda x, y, bs: [(xb, y[:len(xb)]) for xb, _ in cut(x, y, bs)], 'other rows'),
    ('cut', lambda x, y, bs: [xb for xb, _ in cut(x, y, bs)], 'not right'),
    ('cut', lambda x, y, bs: (x[:bs], y[:bs]), 'not right')])
def test_slips_are_named(check, answer, words, checks):
    said = checks[f'check_{check}'](answer)
    assert words in said and not said.startswith('right'), said


@pytest.mark.parametrize('cols', [0, -1, 2.5, None])
def test_columns_of_images_are_whole(cols):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match='cols is'):
        show_images(torch.zeros(3, 784), cols=cols)
    assert plt.get_fignums() == before
