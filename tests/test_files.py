"""What users meet with data files, produced on purpose.

Each fault ends in the right data from the next source, or in a `DataError` that names it. The data
is a small set of MNIST's form that is made here, so nothing needs to be downloaded.
"""
import contextlib
import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import struct
import sys
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from mnist_mb.files import (
    DATASETS, MIRRORS, DataError, cached, check_output, fetch_dataset, find_dataset, parse_idx,
    user_path, write_whole)

FILES = tuple(DATASETS['mnist'])
IMAGES, LABELS = FILES[:2]
PAGE = b'<!DOCTYPE html><html><title>Sorry</title>' + b' '*4471
RNG = np.random.default_rng(0)
ARRAYS = [RNG.integers(256, size=(12, 28, 28), dtype=np.uint8), np.arange(12, dtype=np.uint8) % 10,
          RNG.integers(256, size=(5, 28, 28), dtype=np.uint8), np.arange(5, dtype=np.uint8)]


def idx(a):
    return bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>u4').tobytes() + a.tobytes()


RAW = {file: idx(a) for file, a in zip(FILES, ARRAYS)}
GZ = {file: gzip.compress(raw, 1) for file, raw in RAW.items()}
TOY = {file: tuple(hashlib.sha256(form[file]).hexdigest() for form in (GZ, RAW)) for file in FILES}


def flipped(content, at=None, bit=0):
    at = len(content)//2 if at is None else at
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at+1:]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "An empty folder and an empty cache, no variables, and the toy set in MNIST's place."
    for name, value in (('DATA', ''), ('OFFLINE', ''), ('CACHE', str(tmp_path/'cache'))):
        monkeypatch.setenv(f'MNIST_MB_{name}', value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, 'mnist', TOY)
    monkeypatch.setitem(MIRRORS, 'mnist', ('http://127.0.0.1:9/',))  # where nobody answers
    return tmp_path/'cache'


def same(arrays, expected=ARRAYS):
    return all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))


def all_right(*args, **kw):
    return same(find_dataset(*args, **kw)[0])


def says(words, *args, **kw):
    "Looking for the set ends in a `DataError` with these words."
    with pytest.raises(DataError) as e:
        find_dataset(*args, **kw)
    assert words in str(e.value), str(e.value)
    return str(e.value)


def folder(path, **changed):
    "A folder with the four files; `changed` are bytes, None for no file, a function of its path."
    path.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        content = changed.get(file.replace('-', '_'), GZ[file])
        if callable(content):
            content(path/file)
        elif content is not None:
            (path/(f'{file}.gz' if content[:2] == b'\x1f\x8b' else file)).write_bytes(content)
    return path


# mirrors
class Faulty(http.server.BaseHTTPRequestHandler):
    """Serves the right files under /good/, and the faults below under their names."""
    over = threading.Event()  # set at the end, for handlers that wait

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, file = self.path.strip('/').split('/')
        with contextlib.suppress(OSError):
            getattr(self, kind)(GZ[file.removesuffix('.gz')])

    def send(self, body, status=200, length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), value)
        if length != 'none':
            self.send_header('Content-Length', str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def good(self, body):
        self.send(body)

    def packs(self, body):
        "Zips what it sends, as web servers do, unless it is asked not to."
        as_it_is = self.headers['Accept-Encoding'] == 'identity'
        self.send(body, **{} if as_it_is else {'Content_Encoding': 'gzip'})

    def missing(self, body):
        self.send(PAGE, 404)

    def page(self, body):
        self.send(PAGE)

    def half(self, body):
        self.send(body[:-100])

    def cut(self, body):
        self.send(body[:-100], length=len(body))

    def flip(self, body):
        self.send(flipped(body))

    def again(self, body):
        self.send(gzip.compress(gzip.decompress(body), 9))

    def loop(self, body):
        self.send(b'', 302, Location=self.path)

    def endless(self, body):
        self.send(body, length='none')
        while not self.over.is_set():
            self.wfile.write(bytes(10**6))

    def trickle(self, body):
        self.send(body, length='none')
        while not self.over.wait(0.05):
            self.wfile.write(bytes(1000))


@pytest.fixture(scope='module')
def server():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Faulty)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    Faulty.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def mirrors(server, monkeypatch):
    "Call with the kinds of mirrors to ask, one after the other."
    def ask(*kinds):
        urls = tuple(f'{server}/{kind}/' for kind in kinds)
        monkeypatch.setitem(MIRRORS, 'mnist', urls)
        return urls
    return ask


WHERE = f'where {IMAGES} of mnist should be'
FAULTS = {'missing': 'HTTPError: 404',
          'page': f"4,512 bytes that begin with b'<!DOCTYPE html', {WHERE}",
          'half': 'damaged gzip', 'cut': 'IncompleteRead', 'flip': 'damaged gzip',
          'again': 'known hash', 'loop': 'TooManyRedirects'}


@pytest.mark.parametrize('kind', FAULTS)
def test_mirror_with_a_fault(kind, mirrors, cache):
    url, _ = mirrors(kind, 'good')
    assert all_right() and all_right(download=False)
    assert sorted(p.name for p in (cache/'mnist').iterdir()) == sorted(f'{f}.gz' for f in FILES)
    (cache/'mnist'/f'{IMAGES}.gz').unlink()
    mirrors(kind)
    text = says(FAULTS[kind])
    assert text.startswith('no mirror gave') and f'{url}{IMAGES}.gz: ' in text
    assert 'By hand' in text and TOY[IMAGES][0] in text and str(cache/'mnist') in text
    assert len(list((cache/'mnist').iterdir())) == 3


@pytest.mark.slow
@pytest.mark.parametrize('kind, words', [
    ('endless', 'too slow or too long: 250,0'), ('trickle', 'too slow or too long')])
def test_mirror_without_an_end(kind, words, mirrors, cache):
    mirrors(kind)
    with pytest.raises(DataError, match=words):
        fetch_dataset(timeout=30 if kind == 'endless' else 0.7)
    assert list((cache/'mnist').iterdir()) == []


def test_nobody_answers():
    assert 'By hand' in says('refused')


def test_a_mirror_that_zips_once_more(mirrors):
    mirrors('packs')
    assert all_right()


def test_only_what_lacks_is_fetched(mirrors, cache, capfd):
    mirrors('good')
    fetch_dataset()
    spoilt, kept = [cache/'mnist'/f'{file}.gz' for file in FILES[:2]]
    before = kept.stat().st_mtime_ns
    spoilt.write_bytes(b'spoilt')
    with pytest.warns(UserWarning, match='passed over .*cache.mnist: .*6 bytes'):
        assert all_right()
    assert kept.stat().st_mtime_ns == before
    assert capfd.readouterr() == ('', '')  # nobody looks


def test_a_bar_where_somebody_looks(mirrors, capfd, monkeypatch):
    mirrors('good')
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    fetch_dataset()
    assert '100%' in capfd.readouterr().err


@pytest.mark.parametrize('spoil', [
    lambda cache: cache.write_text('a file where the cache should be'),
    lambda cache: cache.symlink_to('/dev/null/x'), lambda cache: cache.mkdir(mode=0o555)])
def test_a_cache_that_cannot_be_written(spoil, user, mirrors, monkeypatch):
    monkeypatch.setenv('MNIST_MB_CACHE', str(user/'cache'))
    mirrors('good')
    spoil(user/'cache')
    assert 'By hand' in says('no mirror gave')
    assert cached('x', lambda: [np.ones(1, np.uint8)])[0] == 1


def test_no_permission(user):
    here = folder(user/'here')
    for shut in (here/f'{LABELS}.gz', here):
        shut.chmod(0)
        try:
            says('ermission denied', here)
        finally:
            shut.chmod(0o700)
    assert all_right(here)


# files on disk
def itself(path):
    path.symlink_to(path.name)


count = RAW[LABELS][:4] + b'\0\0\0\x0b' + RAW[LABELS][8:-1]
LONG = 'more than 250,000,000 bytes'
ON_DISK = {
    'gzip cut short': (IMAGES, GZ[IMAGES][:-9], 'damaged gzip file'),
    'gzip with a flipped bit': (IMAGES, flipped(GZ[IMAGES]), 'damaged gzip file'),
    'one label fewer': (LABELS, count, f'where {LABELS}'),
    'trailing bytes': (LABELS, RAW[LABELS] + b'\0\0', '22 bytes that begin with'),
    'one bit in a label': (LABELS, flipped(RAW[LABELS], -1), f'where {LABELS}'),
    'files swapped': (LABELS, GZ[FILES[3]], f'where {LABELS}'),
    'empty': (LABELS, b'', "0 bytes that begin with b''"),
    'a web page': (LABELS, PAGE, f"4,512 bytes that begin with b'<!DOCTYPE html', where {LABELS}"),
    'a folder': (LABELS, Path.mkdir, 'lacks train-labels'),
    'a link to itself': (LABELS, itself, 'symbolic links'),
    'missing': (LABELS, None, 'lacks train-labels'),
}
if hasattr(os, 'mkfifo'):
    ON_DISK['a pipe'] = (LABELS, os.mkfifo, 'lacks train-labels')


@pytest.mark.parametrize('fault', ON_DISK)
def test_folder_with_a_fault(fault, tmp_path):
    file, content, words = ON_DISK[fault]
    text = says(words, folder(tmp_path/'here', **{file.replace('-', '_'): content}))
    assert str(tmp_path/'here') in text and 'MNIST is read from a folder' in text


@pytest.mark.parametrize('name', [f'{IMAGES}.gz', 'mnist.pkl.gz', 'mnist.npz'])
def test_what_would_unzip_to_more_than_mnist(name, tmp_path):
    if name.endswith('.npz'):
        np.savez_compressed(tmp_path/name, x_train=np.zeros(251_000_000, np.uint8))
        says('too large for MNIST', tmp_path/name)
        return
    (tmp_path/name).write_bytes(gzip.compress(bytes(50_000_000), 1)*20)  # a billion zeros
    tracemalloc.start()
    try:
        says(LONG, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 700_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('path', ['nowhere', 'emnist', 'x'*300, 'x'*5000, 'a\0b', '~nobody-x/x'])
def test_no_such_path(path):
    assert 'called fashion, kmnist and drawn' in says(path, path)


# the layouts that people have
def unzipped(here):
    (here/f'{LABELS}.gz').unlink()
    (here/LABELS).write_bytes(RAW[LABELS])


def zipped_again(here):
    (here/f'{LABELS}.gz').write_bytes(b''.join(map(gzip.compress, (RAW[LABELS][:4],
                                                                   RAW[LABELS][4:]))))


def dots(here):
    for path in here.iterdir():
        path.rename(here/path.name.replace('-idx', '.idx'))


def folders_of_their_names(here):
    (here/IMAGES).mkdir()
    (here/f'{IMAGES}.gz').unlink()
    (here/IMAGES/IMAGES).write_bytes(RAW[IMAGES])


def half_of_it_unzipped(here):
    (here/IMAGES).write_bytes(RAW[IMAGES][:1000])


def half_of_it_zipped(here):
    (here/IMAGES).write_bytes(RAW[IMAGES])
    (here/f'{IMAGES}.gz').write_bytes(GZ[IMAGES][:1000])


@pytest.mark.parametrize('change', [unzipped, zipped_again, dots, folders_of_their_names,
                                    half_of_it_unzipped, half_of_it_zipped])
def test_folder_as_people_have_it(change, tmp_path):
    change(folder(tmp_path/'here'))
    assert all_right(tmp_path/'here')


@pytest.mark.parametrize('content', [RAW, GZ])
def test_torchvision(content, tmp_path):
    folder(tmp_path/'data'/'MNIST'/'raw', **{f.replace('-', '_'): content[f] for f in FILES})
    assert all_right('data') and all_right('data/MNIST/raw')
    assert find_dataset(download=False)[1] == 'data'


def toy_pickle(scale=256, protocol=2):
    x, y, xt, yt = ARRAYS
    x, xt = [a.reshape(-1, 784).astype(np.float32)/scale for a in (x, xt)]
    y, yt = y.astype(np.int64), yt.astype(np.int64)
    return pickle.dumps(((x[:8], y[:8]), (x[8:], y[8:]), (xt, yt)), protocol)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('name, pack', [
    ('mnist.pkl', bytes), ('mnist.pkl.gz', gzip.compress), ('mnist.pkl.gz', bytes)])
def test_mnist_in_a_pickle(name, pack, protocol, tmp_path):
    content = toy_pickle(protocol=protocol)
    for spelling in (content, content.replace(b'numpy._core', b'numpy.core')):
        if protocol > 3 and spelling != content:
            continue  # a name's length stands before it
        (tmp_path/name).write_bytes(pack(spelling))
        assert all_right(tmp_path/name) and all_right(tmp_path)


def python_2(a):
    "An array as Python 2 pickled it: bytes are text, False and True are 0 and 1."
    shape = b''.join(b'M' + struct.pack('<H', n) for n in a.shape)
    kind = b'cnumpy\ndtype\nU\x02' + a.dtype.str[1:].encode() + b'K\0K\x01\x87R(K\x03U\x01<NNN'
    return (b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R(K\x01('
            + shape + b't' + kind + b'J\xff\xff\xff\xff'*2 + b'K\0tb\x89T'
            + struct.pack('<i', a.nbytes) + a.tobytes() + b'tb')


def test_what_python_2_wrote(tmp_path):
    arrays = [python_2(a) for pair in pickle.loads(toy_pickle()) for a in pair]
    pairs = b''.join(x + y + b'\x86' for x, y in zip(arrays[::2], arrays[1::2]))
    (tmp_path/'mnist.pkl').write_bytes(b'\x80\x02' + pairs + b'\x87.')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert all_right(tmp_path)


def npz(path, **changed):
    names = dict(zip(('x_train', 'y_train', 'x_test', 'y_test'), ARRAYS)) | changed
    np.savez(path, **{name: a for name, a in names.items() if a is not None})
    return path


def test_mnist_of_keras(tmp_path):
    (tmp_path/'data').mkdir()
    path = npz(tmp_path/'data'/'mnist.npz', y_train=ARRAYS[1].astype(int))
    assert all_right(path) and find_dataset(download=False)[1] == 'data'


@pytest.mark.parametrize('bad', ['mnist.pkl.gz', LABELS])
def test_whichever_layout_is_right(bad, tmp_path):
    (tmp_path/bad).write_bytes(b'\x80\2half')
    (tmp_path/'mnist.pkl').write_bytes(toy_pickle())
    assert all_right(tmp_path)
    (tmp_path/'mnist.pkl').write_bytes(PAGE)
    says('DOCTYPE html', tmp_path)
    assert all_right(folder(tmp_path))


def test_a_set_known_by_its_zipped_files_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, 'fashion', {file: known[:1] for file, known in TOY.items()})
    here = folder(tmp_path/'here')
    assert all_right(here, name='fashion')
    (here/f'{LABELS}.gz').write_bytes(gzip.compress(RAW[LABELS], 9))
    says(f'where {LABELS} of fashion should be', here, name='fashion')


def test_known_sets():
    for name, known in DATASETS.items():
        assert tuple(known) == FILES and set(MIRRORS) == set(DATASETS)
        assert {len(checksum) for sums in known.values() for checksum in sums} == {64}
        assert all(url.endswith('/') for url in MIRRORS[name])


# one file that is none of these
class Calls:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def asks_for(module, name):
    "A pickle of protocol 4 that asks for a name."
    return (b'\x80\x04' + b''.join(b'\x8c' + bytes([len(text)]) + text.encode()
                                   for text in (module, name)) + b'\x93.')


def trio(x, y=np.zeros(2, np.int64)):
    return pickle.dumps([(x, y)]*3, 2)


def of_arrays(**changed):
    npz(content := io.BytesIO(), **changed)
    return content.getvalue()


OTHERS = {
    'os.system': (pickle.dumps(Calls(os.system, ('touch pwned',))), 'asks for posix.system: it is'),
    'eval': (pickle.dumps(Calls(eval, ('open("pwned", "w")',))), 'asks for builtins.eval'),
    'numpy.load': (asks_for('numpy', 'load'), 'asks for numpy.load'),
    'a method of an array': (asks_for('numpy', 'ndarray.tofile'), 'asks for numpy.ndarray.tofile'),
    'old name': (asks_for('numpy.core.shape_base', 'vstack'), 'asks for numpy._core.shape_base'),
    'objects that are called': (trio(np.array([Calls(os.system, ('touch pwned',))])), 'asks for'),
    'an object array': (trio(np.array([None, 1], object)), 'TypeError'),
    'cut short': (toy_pickle()[:500], 'no MNIST ('),
    'a dict of arrays': (pickle.dumps({'train': np.zeros((6, 784))}, 2), 'no MNIST (ValueError'),
    'other arrays': (trio(np.full((2, 784), .5)), f'where {IMAGES} of mnist should be'),
    'another scale': (toy_pickle(scale=255, protocol=4), f'where {IMAGES} of mnist should be'),
    'images of one row': (trio(np.zeros((3, 9))), 'cannot reshape'),
    'a web page': (PAGE, "4,512 bytes that begin with b'<!DOCTYPE html' are no MNIST"),
    'an IDX file': (RAW[LABELS], r"20 bytes that begin with b'\x00\x00\x08\x01"),
    'a table': (b'label,pixel0\n5,0\n', "begin with b'label,pixel0"),
    'a picture': (b'\x89PNG\r\n\x1a\n' + bytes(50), r"58 bytes that begin with b'\x89PNG"),
    'half a zip archive': (b'PK\x03\x04' + bytes(100), 'BadZipFile'),
    'nothing': (b'', '0 bytes'),
    'arrays of other names': (of_arrays(x_test=None), 'x_test is not a file in the archive'),
    'images in another order': (of_arrays(x_train=ARRAYS[0][::-1]), f'where {IMAGES} of mnist'),
    'objects in a zip': (of_arrays(y_test=np.array([Calls(os.system, ('touch pwned',))])),
                         'allow_pickle'),
}


@pytest.mark.parametrize('fault', OTHERS)
@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_another_file(fault, pack, tmp_path):
    content, words = OTHERS[fault]
    path = tmp_path/'mnist.pkl.gz'
    path.write_bytes(pack(content))
    text = says(words, path)
    assert str(path) in text and 'MNIST is read from a folder with its four files' in text
    assert 'make_splits' in text and '\n' not in text and len(text) < 700
    assert not Path('pwned').exists()


# looking in every place
def test_order_of_places(tmp_path, cache, monkeypatch):
    def found(**kw):
        return find_dataset(download=False, **kw)[1]
    monkeypatch.setitem(DATASETS, 'fashion', TOY)
    says('downloading is off', download=False)
    for place in (str(cache/'mnist'), 'data'):
        folder(Path(place))
        assert found() == place
    folder(Path('data/fashion'))
    assert found(name='fashion') == 'data/fashion'
    folder(tmp_path/'mine')
    monkeypatch.setenv('MNIST_MB_DATA', str(tmp_path/'mine'))
    assert found() == str(tmp_path/'mine')
    assert found(name='fashion') == 'data/fashion'
    folder(tmp_path/'mine'/'fashion')
    assert found(name='fashion') == str(tmp_path/'mine'/'fashion')
    folder(tmp_path/'given')
    assert found(path='given') == 'given'


def test_another_data_folder_is_left_alone(tmp_path):
    (tmp_path/'data').mkdir()
    (tmp_path/'data'/'train.csv').write_bytes(b'label,pixel0')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        says('downloading is off', download=False)


@pytest.mark.parametrize('name', ['mnist.pkl.gz', LABELS, 't10k-labels.idx1-ubyte'])
def test_a_wrong_folder_is_passed_over_aloud(name, mirrors, tmp_path):
    (tmp_path/'data').mkdir()
    (tmp_path/'data'/name).write_bytes(PAGE)
    mirrors('good')
    with pytest.warns(UserWarning, match='passed over data: '):
        assert all_right()


def test_a_named_folder_must_be_right(mirrors, monkeypatch):
    folder(Path('mine'), train_images_idx3_ubyte=PAGE)
    monkeypatch.setenv('MNIST_MB_DATA', 'mine')
    mirrors('good')
    says('DOCTYPE html')
    says('DOCTYPE html', 'mine')


@pytest.mark.parametrize('home', ['~', '$HOME', '${HOME}'])
def test_home_and_variables(home, tmp_path, monkeypatch):
    for name in ('HOME', 'USERPROFILE'):
        monkeypatch.setenv(name, str(tmp_path/'home'))
    folder(tmp_path/'home')
    assert user_path(f'{home}/x') == tmp_path/'home'/'x' and all_right(home)
    monkeypatch.setenv('MNIST_MB_DATA', home)
    assert all_right(download=False)
    write_whole(f'{home}/note', lambda path: path.write_text('x'))
    assert (tmp_path/'home'/'note').read_text() == 'x'
    with pytest.raises(ValueError, match='it exists'):
        check_output(f'{home}/note')
    monkeypatch.setenv('MNIST_MB_CACHE', f'{home}/kept')
    cached('x', lambda: [np.ones(1, np.uint8)])
    assert (tmp_path/'home'/'kept'/'x.npz').is_file()


@pytest.mark.parametrize('how', ['argument', 'variable'])
def test_offline_touches_no_network(how, monkeypatch):
    def touched(*_):
        raise AssertionError('the network was touched')
    monkeypatch.setattr(socket.socket, 'connect', touched)
    monkeypatch.setenv('MNIST_MB_OFFLINE', '1' if how == 'variable' else '0')
    assert 'By hand' in says('no mnist here, and downloading is off', download=how == 'variable')


# parts
TINY = bytes([0, 0, 8, 1,  0, 0, 0, 3,  5, 0, 4])
PAIR = bytes([0, 0, 8, 2,  0, 0, 0, 2,  0, 0, 0, 3]) + bytes(range(6))


def test_parse_idx():
    assert parse_idx(TINY).tolist() == [5, 0, 4] and parse_idx(PAIR).dtype == np.uint8
    assert parse_idx(PAIR).tolist() == [[0, 1, 2], [3, 4, 5]]
    for bad in (TINY + b'1', TINY[:-1], TINY[:6], bytes([0, 0, 8, 65]) + b'\0\0\0\1'*65 + b'\7'):
        with pytest.raises(ValueError):
            parse_idx(bad)
    for code, kind in ((9, '>i1'), (11, '>i2'), (12, '>i4'), (13, '>f4'), (14, '>f8')):
        values = np.array([[1, -2, 3]], kind)
        got = parse_idx(bytes([0, 0, code, 2,  0, 0, 0, 1,  0, 0, 0, 3]) + values.tobytes())
        assert got.dtype == kind and got.tolist() == values.tolist()
    for bad in (b'', b'\0\0', PAGE, b'\0\0\x0a' + TINY[3:]):
        with pytest.raises(DataError, match='no IDX file: it begins with'):
            parse_idx(bad)


def test_write_whole(tmp_path):
    note, link = tmp_path/'note', tmp_path/'link'
    write_whole(note, lambda path: path.write_text('one'))
    with pytest.raises(ZeroDivisionError):
        write_whole(note, lambda path: path.write_text('half') and 1/0)
    assert note.read_text() == 'one'
    link.symlink_to(note)
    write_whole(link, lambda path: path.write_text('two'))
    assert link.is_symlink() and note.read_text() == 'two'
    with pytest.raises(FileExistsError):
        write_whole(note, lambda path: path.write_text('x'), overwrite=False)
    new = tmp_path/'new'
    with pytest.raises(FileExistsError):  # it comes while this is written
        write_whole(new, lambda path: path.write_text('x') and new.write_text('first'), False)
    assert (note.read_text(), new.read_text()) == ('two', 'first')
    new.unlink()
    write_whole(new, lambda path: path.write_text(path.parent.name), overwrite=False)
    assert sorted(os.listdir(tmp_path)) == ['link', 'new', 'note']
    assert new.read_text().startswith('.unfinished-new-')  # what a killed process leaves


def test_check_output(tmp_path):
    there = tmp_path/'there.pt'
    there.write_text('x')
    for path, words in ((tmp_path, 'regular file'), (tmp_path/'no'/'a.pt', 'No such file'),
                        (there, 'exists: choose another name, or say --overwrite'),
                        (tmp_path/('x'*300), 'File name too long'), (there/'x', 'Not a directory')):
        with pytest.raises(ValueError, match=f"can't write .*: .*{words}"):
            check_output(path)
    with pytest.raises(ValueError, match='or say overwrite=True'):
        check_output(str(there), cure='overwrite=True')
    with pytest.raises(ValueError, match='regular file'):
        check_output(os.devnull, overwrite=True)
    check_output(there, overwrite=True)
    check_output(tmp_path/'new.pt')
    assert os.listdir(tmp_path) == ['there.pt'] and there.read_text() == 'x'


def test_an_output_that_is_closed(user):
    (user/'file').touch()
    (user/'folder').mkdir()
    for shut, path in ((user/'file', user/'file'), (user/'folder', user/'folder'/'new')):
        shut.chmod(0o555)
        with pytest.raises(ValueError, match='Permission denied'):
            check_output(path, overwrite=True)
        shut.chmod(0o755)


def made(log=None):
    if log is not None:
        log.append('made')
    return [np.arange(150, dtype=np.uint8).reshape(50, 3), np.arange(50, dtype=np.uint8)]


def kept(log, name='some'):
    return same(cached(name, lambda: made(log)), made())


def test_cached_believes_no_flipped_bit(cache):
    log = []
    assert kept(log) and kept(log) and log == ['made'] and os.listdir(cache) == ['some.npz']
    content = (cache/'some.npz').read_bytes()
    for at, bit in zip(RNG.integers(len(content), size=200), RNG.integers(8, size=200)):
        (cache/'some.npz').write_bytes(flipped(content, at, bit))
        assert kept([]), (at, bit)


@pytest.mark.parametrize('spoil', [
    lambda file: file.write_bytes(file.read_bytes()[:100]), lambda file: file.write_bytes(b''),
    lambda file: np.savez(file, *made()), lambda file: np.savez(file, *made(), 'other'),
    lambda file: np.savez(file, **{f'some-{i}': a for i, a in enumerate(made())}),  # as 0.2.0 did
    lambda file: kept([], 'other') and os.replace(file.with_name('other.npz'), file),
    lambda file: np.savez(file, np.array([Calls(os.system, ('touch pwned',))]), made()[1]),
    lambda file: file.write_bytes(pickle.dumps(Calls(os.system, ('touch pwned',))))])
def test_cached_makes_anew(spoil, cache):
    log = []
    kept(log)
    spoil(cache/'some.npz')
    assert kept(log) and log == ['made']*2 and kept(log) and log == ['made']*2
    assert not Path('pwned').exists()


# the real one
@pytest.mark.mnist
def test_layouts_of_the_real_mnist(mnist, monkeypatch, tmp_path):
    real = Path(mnist.source)
    monkeypatch.undo()
    arrays, _ = find_dataset(real)
    assert [a.shape for a in arrays] == [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    assert arrays[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    for file, a in zip(FILES, arrays):
        (tmp_path/file).write_bytes(idx(a))
    others = [tmp_path, npz(tmp_path/'mnist.npz', **dict(zip(
        ('x_train', 'y_train', 'x_test', 'y_test'), arrays)))]
    if (real/'mnist.pkl.gz').is_file():
        others.append(real/'mnist.pkl.gz')
    for other in others:
        assert same(find_dataset(other)[0], arrays)
