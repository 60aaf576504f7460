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

from mnist_mb.exercises import verdict
from mnist_mb.data import (
    CLASSES, DataError, drawn_digits, get_data, load_mnist, make_splits, show_images)
from mnist_mb.drawing import draw
from mnist_mb.files import DATASETS


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    "No file, no cache, no network."
    for name, value in (('DATA', ''), ('OFFLINE', '1'), ('CACHE', str(tmp_path/'cache'))):
        monkeypatch.setenv(f'MNIST_MB_{name}', value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


IMAGES = np.arange(6*784).astype(np.uint8).reshape(6, 28, 28)
NUMBERS = np.array([0, 1, 2, 0, 1, 2], np.uint8)


def test_each_set_has_names_for_its_classes():
    assert set(CLASSES) == {*DATASETS, 'drawn'}
    assert all(len(names) == 10 for names in CLASSES.values())


# make_splits
@pytest.mark.parametrize('kind', [np.asarray, torch.as_tensor, np.ndarray.tolist])
def test_make_splits(kind):
    images, labels = kind(IMAGES), kind(NUMBERS)
    splits = make_splits((images, labels), (images[:2], labels[:2]), 3, name='toy', source='here')
    shapes = [(tuple(x.shape), tuple(y.shape)) for x, y in splits]
    assert shapes == [((3, 784), (3,)), ((3, 784), (3,)), ((2, 784), (2,))]
    assert {(x.dtype, y.dtype) for x, y in splits} == {(torch.float32, torch.int64)}
    assert [y.tolist() for _, y in splits] == [[0, 1, 2], [0, 1, 2], [0, 1]]
    assert torch.equal(256*splits[1][0], torch.as_tensor(IMAGES[3:]).reshape(3, 784).float())
    again = pickle.loads(pickle.dumps(splits))
    for s in (splits, again):
        assert isinstance(s, tuple) and (s.name, s.source) == ('toy', 'here')
        assert repr(s) == "Splits('toy', rows: 3, 3, 2)"


@pytest.mark.parametrize('labels', [NUMBERS.astype(float), [*'012012'], pd.Series([*'012012'])])
def test_make_splits_takes_class_numbers_of_any_type(labels):
    x, y = make_splits((IMAGES.astype(float), labels), (IMAGES, NUMBERS), 0)[0]
    assert y.tolist() == NUMBERS.tolist()
    assert torch.equal(256*x, torch.as_tensor(IMAGES).reshape(6, 784).float())


@pytest.mark.parametrize('images, labels, words', [
    (IMAGES/255, NUMBERS, 'pixels from 0 to 1; they must be bytes'),
    (IMAGES > 9, NUMBERS, 'pixels from 0 to 1;'),
    (IMAGES.astype(int) - 1, NUMBERS, 'pixels from -1 to 254;'),
    (IMAGES.astype(int) + 1, NUMBERS, 'pixels from 1 to 256;'),
    (IMAGES*np.nan, NUMBERS, 'pixels from nan'),
    (IMAGES, NUMBERS[:3], r'6 images, labels of shape \(3,\)'),
    (IMAGES, np.eye(6), r'6 images, labels of shape \(6, 6\); each needs a class number'),
    (IMAGES, NUMBERS/4, 'a class number'), (IMAGES, NUMBERS - 1., 'a class number'),
    (IMAGES, [0, 1, 2, 3, 4, np.nan], 'a class number'), (IMAGES, [*'abcdef'], "float: '?'a'"),
    (IMAGES[:, 1:], NUMBERS, '756 pixels in an image for training, 784 in one for testing')])
def test_make_splits_refuses(images, labels, words):
    for n_valid in (2, 3):
        with pytest.raises(ValueError, match=words):
            make_splits((images, labels), (IMAGES, NUMBERS), n_valid)


@pytest.mark.parametrize('n_valid', [-1, 7])
def test_make_splits_does_not_cut_outside(n_valid):
    with pytest.raises(RuntimeError, match='non-negative'):
        make_splits((IMAGES, NUMBERS), (IMAGES, NUMBERS), n_valid)


def test_sorted_labels():
    "The last of them may be a class that training has not seen, or one class only."
    images = np.repeat(IMAGES, 20, 0)
    images[:, 0, 0] = np.arange(120)
    labels = np.repeat([0, 1, 2], 40)
    test = images[:3], [0, 1, 2]
    for n_valid, words in ((50, r'training lacks \[2\], validation \[0\]; seed=0 shuffles before'),
                           (20, r'training lacks \[\], validation \[0, 1\]; seed=0')):
        with pytest.warns(UserWarning, match=words) as seen:
            (_, y), (_, y_valid), _ = make_splits((images, labels), test, n_valid)
        assert torch.equal(torch.cat([y, y_valid]), torch.tensor(labels))
        assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        one, same, other = [make_splits((images, labels), test, 50, seed=s) for s in (0, 0, 1)]
    x, y = [torch.cat(parts) for parts in zip(*one[:2])]
    rows = (256*x[:, 0]).long()
    assert rows.sort().values.tolist() == list(range(120)) and rows.tolist() != list(range(120))
    assert y.tolist() == labels[rows].tolist()  # each image keeps its label
    assert torch.equal(same[0][0], one[0][0]) and not torch.equal(other[0][0], one[0][0])
    assert one[2][1].tolist() == [0, 1, 2]


# load_mnist and get_data
def test_without_anything(nothing):
    for source in ('mnist', 'kmnist'):
        with pytest.raises(DataError, match=f'no {source} here, and downloading is off\nBy hand'):
            get_data(source)
        with pytest.raises(ValueError):  # whoever catches that catches a DataError
            load_mnist(name=source)
    for path in ('a-path', Path('a-path'), 'MNIST'):
        with pytest.raises(DataError, match=f'no file or folder {path}. .*called fashion, kmnist'):
            get_data(path)


def test_auto_says_that_it_draws(nothing, drawn, monkeypatch):
    monkeypatch.undo()  # back to the cache that has drawn digits
    for name, value in (('DATA', ''), ('OFFLINE', '1')):
        monkeypatch.setenv(f'MNIST_MB_{name}', value)
    monkeypatch.chdir(nothing)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        data = get_data()
    assert data.name == 'drawn' and torch.equal(data[0][0], drawn[0][0])
    assert len(seen) == 1 and seen[0].filename == __file__
    text = str(seen[0].message)
    assert text.startswith('drawn digits, not MNIST (no mnist here') and '\n' not in text
    assert len(text) < 200 and "get_data('mnist')" in text


def test_a_named_folder_must_be_right(nothing, monkeypatch):
    monkeypatch.setenv('MNIST_MB_DATA', 'nowhere')
    for source in ('auto', 'mnist'):
        with pytest.raises(DataError, match='no file or folder nowhere'):
            get_data(source)


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
    for other in (get_data('mnist'), get_data(mnist.source), get_data()):
        assert other.name == 'mnist' and torch.equal(other[2][0], mnist[2][0])


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


def first(seed):
    "The first 500 of the digits that a seed draws."
    generator = torch.Generator().manual_seed(seed)
    images, digits = zip(*[draw(250, generator) for _ in range(2)])
    return torch.cat(images).reshape(500, 784)/256, torch.cat(digits)


def test_drawn_digits_are_those_of_the_seed(drawn):
    "The cache may come from a processor that rounds otherwise, so a pixel may differ a little."
    (x, y), _, _ = drawn
    images, digits = first(0)
    assert torch.equal(y[:500], digits)
    assert ((256*(x[:500] - images)).abs() > 2).float().mean() < 1e-3


@pytest.mark.slow
def test_drawn_digits_know_no_default_type(nothing):
    "Another one drew other digits, and kept them in the cache for every later program."
    torch.set_default_dtype(torch.float64)
    try:
        fresh = drawn_digits(1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, [part[:500] for part in fresh[0]], first(1)))
    file, = (nothing/'cache').iterdir()
    before = file.stat().st_mtime_ns
    again = drawn_digits(1)
    assert torch.equal(again[0][0], fresh[0][0]) and file.stat().st_mtime_ns == before


# show_images
@pytest.fixture
def closing():
    yield
    plt.close('all')


@pytest.mark.parametrize('kind', [torch.as_tensor, np.asarray])
@pytest.mark.parametrize('shape', [(12, 784), (12, 28, 28), (12, 1, 28, 28)])
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


@pytest.mark.parametrize('shape', [(5, 3, 28, 28), (5, 28, 28, 3), (3, 100)])
def test_show_images_refuses(shape, closing):
    with pytest.raises(ValueError, match=r'is not \(n, 784\) or .*; of color images, average'):
        show_images(torch.zeros(shape))
    assert not plt.get_fignums()


def test_import_does_nothing(nothing):
    code = ('import os, sys; import mnist_mb.data, mnist_mb.files, mnist_mb.drawing; '
            'assert not {"matplotlib", "pooch", "requests", "pandas"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True,
                   env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert not list(nothing.iterdir())


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
