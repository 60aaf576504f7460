"""Files spoilt at random, the same ones every time: the right data, or a `DataError`."""
import gzip
import hashlib
import io
import pickle
import pickletools
import random
import warnings

import numpy as np
import pytest

from mnist_mb import files
from mnist_mb.files import (
    DATASETS, DataError, cache_folder, find_dataset, parse_idx, verify)

FILES = tuple(DATASETS['mnist'])
RNG = np.random.default_rng(0)
ARRAYS = [RNG.integers(256, size=(3, 28, 28), dtype=np.uint8), np.arange(3, dtype=np.uint8),
          RNG.integers(256, size=(2, 28, 28), dtype=np.uint8), np.arange(2, dtype=np.uint8)]
RAW = {file: bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>u4').tobytes() + a.tobytes()
       for file, a in zip(FILES, ARRAYS)}
GZ = {file: gzip.compress(raw, mtime=0) for file, raw in RAW.items()}


@pytest.fixture(autouse=True)
def small_set(tmp_path, monkeypatch):
    "Five pictures in MNIST's place, and no network."
    for name, value in (('DATA', ''), ('OFFLINE', '1'), ('CACHE', str(tmp_path/'cache'))):
        monkeypatch.setenv(f'MNIST_MB_{name}', value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, '_content_size', lambda file: len(RAW[file]))
    monkeypatch.setitem(DATASETS, 'mnist', {
        file: (*[hashlib.sha256(b[file]).hexdigest() for b in (RAW, GZ)], len(GZ[file]))
        for file in FILES})


def pairs(protocol):
    x, y, xt, yt = ARRAYS
    x, xt = [a.reshape(-1, 784).astype(np.float32)/256 for a in (x, xt)]
    y, yt = y.astype(np.int64), yt.astype(np.int64)
    return pickle.dumps(((x[:2], y[:2]), (x[2:], y[2:]), (xt, yt)), protocol)


def mutants(content, n, hot):
    "Copies of the content, each with one to three faults, most of them near the `hot` places."
    rng = random.Random(0)
    for _ in range(n):
        bad = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            near = rng.choice(hot) + rng.randrange(6)
            at = near if rng.random() < .7 else rng.randrange(len(content))
            end = at + rng.choice([1, 1, 2, 4, 9, 300])
            bad[at:end] = rng.choice([
                lambda: bytes([(bad[at] if at < len(bad) else 0) ^ (1 << rng.randrange(8))]),
                lambda: rng.randbytes(end - at), lambda: b'', lambda: b'\xff'*(end - at),
                lambda: bytes(bad[at:end])*2, lambda: bytes(content[rng.choice(hot):][:end - at]),
                lambda: rng.choice([b'.', b'b', b'R', b'(', b')', b'q\1', b'h\1', b'r\0\0\0\7'])])()
        if rng.random() < .05:
            del bad[rng.randrange(len(content)):]
        if bad != content:
            yield bytes(bad)


def right_or_refused(read, contents, expected):
    "How many give the expected arrays; the others end in a `DataError`, and nothing is said aside."
    right = 0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        warnings.simplefilter('ignore', DeprecationWarning)  # of Python's own pickletools
        for content in contents:
            try:
                arrays = read(content)
            except DataError:
                continue
            assert all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))
            right += 1
    assert not said, {str(w.message) for w in said}
    return right


@pytest.mark.parametrize('protocol', [2, 5])
def test_pickles(protocol):
    content = pairs(protocol)
    hot = [at for *_, at in pickletools.genops(content)]
    assert right_or_refused(files._parse_whole, [content], ARRAYS) == 1
    spoilt = mutants(content, 1000, hot)
    assert 10 < right_or_refused(files._parse_whole, spoilt, ARRAYS) < 500


def test_npz():
    content = io.BytesIO()
    np.savez_compressed(content, **dict(zip(('x_train', 'y_train', 'x_test', 'y_test'), ARRAYS)))
    content = content.getvalue()
    hot = [at for at in range(len(content)) if content[at:at+2] == b'PK']
    assert right_or_refused(files._parse_whole, [content], ARRAYS) == 1
    assert 10 < right_or_refused(files._parse_whole, mutants(content, 1000, hot), ARRAYS) < 900


@pytest.mark.parametrize('file', FILES)
@pytest.mark.parametrize('form', [RAW, GZ], ids=['raw', 'gz'])
def test_idx(file, form):
    def read(content):
        return [parse_idx(verify(content, file))]
    expected = [ARRAYS[FILES.index(file)]]
    assert right_or_refused(read, [form[file]], expected) == 1
    right = right_or_refused(read, mutants(form[file], 2000, [0, 4, 8]), expected)
    assert right == 0 if form is RAW else 0 < right < 1500  # gzip's header has a date


@pytest.mark.parametrize('file', FILES[:2])
def test_whatever_an_idx_file_holds_is_all_of_it(file):
    for content in mutants(RAW[file], 2000, [0, 3, 4, 8]):
        try:
            a = parse_idx(content)
        except DataError:
            continue
        assert a.dtype == np.uint8 and content == (
            bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>u4').tobytes() + a.tobytes())


@pytest.mark.parametrize('file', FILES)
def test_flipped_bits_in_the_cache(file):
    here = cache_folder()/'mnist'
    here.mkdir(parents=True)
    for name, content in GZ.items():
        (here/f'{name}.gz').write_bytes(content)
    rng = random.Random(0)
    for _ in range(200):
        bad = bytearray(GZ[file])
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        (here/f'{file}.gz').write_bytes(bad)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            try:
                arrays, _ = find_dataset()
                assert all(map(np.array_equal, arrays, ARRAYS)) and not said
            except DataError as e:
                assert 'downloading is off' in str(e) and f'passed over {here}' in str(said[0])
