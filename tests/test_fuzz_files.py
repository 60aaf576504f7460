"""Files spoilt at random, the same ones every time: the right data, or a `DataError`."""
import gzip
import hashlib
import io
import random

import numpy as np
import pytest

from mnist_mb.files import DATASETS, DataError, find_dataset, parse_idx

FILES = tuple(DATASETS['mnist'])
RNG = np.random.default_rng(0)
ARRAYS = [RNG.integers(256, size=(3, 28, 28), dtype=np.uint8), np.arange(3, dtype=np.uint8),
          RNG.integers(256, size=(2, 28, 28), dtype=np.uint8), np.arange(2, dtype=np.uint8)]
RAW = {file: bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>u4').tobytes() + a.tobytes()
       for file, a in zip(FILES, ARRAYS)}
GZ = {file: gzip.compress(raw, mtime=0) for file, raw in RAW.items()}


@pytest.fixture(autouse=True)
def small_set(tmp_path, monkeypatch):
    "Five pictures in MNIST's place, in the working directory."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, 'mnist', {
        file: tuple(hashlib.sha256(form[file]).hexdigest() for form in (GZ, RAW))
        for file in FILES})
    for file in FILES:
        (tmp_path/f'{file}.gz').write_bytes(GZ[file])


def mutants(content, n, hot):
    "Copies of the content, each with one to three faults, most of them near the `hot` places."
    rng = random.Random(0)
    for _ in range(n):
        bad = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            near = rng.choice(hot) + rng.randrange(6)
            at = near if rng.random() < .7 else rng.randrange(len(content))
            end = at + rng.choice([1, 1, 2, 4, 9, 300])
            flip = (bad[at] if at < len(bad) else 0) ^ (1 << rng.randrange(8))
            bad[at:end] = rng.choice([bytes([flip]), rng.randbytes(end - at), b'',
                                      b'\xff'*(end - at), bytes(bad[at:end])*2])
        if rng.random() < .05:
            del bad[rng.randrange(len(content)):]
        if bad != content:
            yield bytes(bad)


def right_or_refused(path, place, contents):
    "How many files with these contents are read rightly; the others end in a `DataError`."
    right = 0
    for content in contents:
        path.write_bytes(content)
        try:
            arrays, _ = find_dataset(place)
        except DataError:
            continue
        assert all(np.array_equal(a, b) for a, b in zip(arrays, ARRAYS, strict=True))
        right += 1
    return right


@pytest.mark.parametrize('file', FILES[:2])
@pytest.mark.parametrize('form', [RAW, GZ], ids=['raw', 'gz'])
def test_idx(file, form, tmp_path):
    path = tmp_path/f'{file}.gz'
    assert right_or_refused(path, tmp_path, [form[file]]) == 1
    right = right_or_refused(path, tmp_path, mutants(form[file], 700, [0, 4, 8]))
    assert right == 0 if form is RAW else 0 < right < 500  # gzip's header has a date


def test_npz(tmp_path):
    content = io.BytesIO()
    np.savez_compressed(content, **dict(zip(('x_train', 'y_train', 'x_test', 'y_test'), ARRAYS)))
    path, content = tmp_path/'other.npz', content.getvalue()
    hot = [at for at in range(len(content)) if content[at:at+2] == b'PK']
    assert right_or_refused(path, path, [content]) == 1
    assert 5 < right_or_refused(path, path, mutants(content, 500, hot)) < 450


@pytest.mark.parametrize('file', FILES[:2])
def test_whatever_an_idx_file_holds_is_all_of_it(file):
    for content in mutants(RAW[file], 2000, [0, 3, 4, 8]):
        try:
            a = parse_idx(content)
        except (ValueError, IndexError):
            continue
        assert content == (
            bytes([0, 0, content[2], a.ndim]) + np.array(a.shape, '>u4').tobytes() + a.tobytes())
