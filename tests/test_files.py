"""What users report about data files, produced on purpose.

Each fault ends in the right data from the next source, or in a `DataError` that names it. The data
is a set of MNIST's form and size that is made here, so nothing needs to be downloaded.
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
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mnist_mb import files
from mnist_mb.files import (
    DATASETS, MIRRORS, ArrayUnpickler, DataError, cache_folder, cached, fetch_dataset, find_dataset,
    parse_idx, read_dataset, verify, write_whole)

FILES = tuple(DATASETS['mnist'])
IMAGES, LABELS = FILES[:2]
PAGE = b'<!DOCTYPE html><html><title>Sorry</title>' + b' '*4471
FAR = 120  # seconds that only a hang takes


def idx(a):
    return bytes([0, 0, 8, a.ndim]) + np.array(a.shape, '>u4').tobytes() + a.tobytes()


def some_images(n):
    "Ten pictures over and over, so that they are small when zipped."
    ten = np.arange(10*784).reshape(10, 28, 28) * 7 % 256
    return np.tile(ten.astype(np.uint8), (n//10, 1, 1))


ARRAYS = [some_images(60_000), np.arange(60_000, dtype=np.uint8) % 10,
          some_images(10_000)[::-1], np.arange(10_000, dtype=np.uint8) % 7]
RAW = {file: idx(a) for file, a in zip(FILES, ARRAYS)}
GZ = {file: gzip.compress(raw, 1) for file, raw in RAW.items()}
TOY = {file: (hashlib.sha256(RAW[file]).hexdigest(), hashlib.sha256(GZ[file]).hexdigest(),
              len(GZ[file])) for file in FILES}


def flipped(content, bit=0, at=None):
    at = len(content)//2 if at is None else at
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at+1:]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    "An empty folder and an empty cache, no variables, and the toy set in MNIST's place."
    for name, value in (('DATA', ''), ('OFFLINE', ''), ('CACHE', str(tmp_path/'cache'))):
        monkeypatch.setenv(f'MNIST_MB_{name}', value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, 'mnist', TOY)
    monkeypatch.setitem(MIRRORS, 'mnist', ('http://127.0.0.1:9/',))  # where nobody answers
    yield
    cache = tmp_path/'cache'
    spoilt = [p.name for p in cache.rglob('*.gz')
              if p.is_file() and GZ.get(p.stem) != p.read_bytes()]
    assert not spoilt, 'a file in the cache is neither right nor absent'


def same(arrays):
    return all(np.array_equal(a, b) for a, b in zip(arrays, ARRAYS, strict=True))


def all_right(*args, **kw):
    arrays, _ = find_dataset(*args, **kw)
    return same(arrays)


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


# a server with faults
class Faulty(http.server.BaseHTTPRequestHandler):
    """Serves the right files under /good/, and the faults below under their names."""
    over = threading.Event()  # set at the end, for handlers that wait
    halfway = threading.Event()  # set when 'stall' has sent half a file
    dripping = threading.Event()  # set when 'drip' has begun
    late, slow = 0, 10**6  # seconds that seem to have passed, and to pass in mid file

    def log_message(self, *_):
        pass

    def do_GET(self):
        kind, file = self.path.strip('/').split('/')
        body = GZ[file.removesuffix('.gz')]
        with contextlib.suppress(OSError):
            getattr(self, kind)(body) if hasattr(self, kind) else self.status(int(kind[4:]))

    def head(self, status=200, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()

    def send(self, body, length=None, **headers):
        self.head(**{'Content_Length': len(body) if length is None else length}, **headers)
        self.wfile.write(body)

    def status(self, number):
        self.head(number, Content_Length=len(PAGE))
        self.wfile.write(PAGE)

    def good(self, body):
        Faulty.late = 0
        self.send(body)

    def short(self, body):
        self.send(body[:-1000])

    def cut(self, body):
        self.send(body[:-1000], length=len(body))

    def long(self, body):
        self.send(body + bytes(1000))

    def onemore(self, body):
        self.send(body + b'\0')

    def wrong(self, body):
        self.send(bytes(len(body)))

    def page(self, body):
        self.send(PAGE)

    def flip(self, body):
        self.send(flipped(body))

    def empty(self, body):
        self.send(b'')

    def chunked(self, body):
        self.wfile.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        for i in range(0, len(body), 700):
            piece = body[i:i+700]
            self.wfile.write(f'{len(piece):x}\r\n'.encode() + piece + b'\r\n')
        self.wfile.write(b'0\r\n\r\n')

    def unpacked(self, body):
        self.send(body, Content_Encoding='gzip')  # so the client may unzip it

    def packs(self, body):
        "Zips what it sends, as web servers do, unless it is asked not to."
        as_it_is = self.headers['Accept-Encoding'] == 'identity'
        self.send(body, **{} if as_it_is else {'Content_Encoding': 'gzip'})

    def endless(self, body):
        self.head()
        while not self.over.is_set():
            self.wfile.write(bytes(10**6))

    def trickle(self, body):
        self.head(Content_Length=len(body))
        self.wfile.write(body[:100])
        Faulty.late = Faulty.slow
        self.wfile.write(body[100:])

    def hang(self, body):
        self.over.wait()

    def stall(self, body):
        self.head(Content_Length=len(body))
        self.wfile.write(body[:len(body)//2])
        self.halfway.set()
        self.over.wait()

    def drip(self, body, begin=b'X: ', letter=b'x'):
        "A header that never ends, letter by letter."
        self.wfile.write(b'HTTP/1.1 200 OK\r\n' + begin + letter)
        self.dripping.set()
        while not self.over.wait(0.2):
            self.wfile.write(letter)

    def dripchunk(self, body):
        "The length of a chunk, with zeros in front."
        self.drip(body, b'Transfer-Encoding: chunked\r\n\r\n', b'0')

    def reset(self, body):
        self.send(body[:len(body)//2], length=len(body))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.connection.close()

    def loop(self, body):
        self.head(302, Location=self.path, Content_Length=0)

    def badhost(self, body):
        self.head(302, Location='http://[::1/file', Content_Length=0)

    def notutf8(self, body):
        self.wfile.write(b'HTTP/1.0 302 Found\r\nLocation: http://\xff\xfe/\xe9\r\n\r\n')

    def badlength(self, body):
        self.send(body, length='many')


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
    def ask(*kinds, timeout=30.):
        urls = tuple(f'{server}/{kind}/' for kind in kinds)
        monkeypatch.setitem(MIRRORS, 'mnist', urls)
        monkeypatch.setattr(files, 'fetch_dataset', lambda name: fetch_dataset(name, timeout))
        return urls
    return ask


class Hasty(threading.Thread):
    "Has waited as long as it was asked to as soon as a mirror drips."
    def join(self, timeout=None):
        while self.is_alive() and not Faulty.dripping.is_set():
            super().join(0.01)
        Faulty.dripping.clear()


FAULTS = {
    'drip': 'too slow: over 300 seconds', 'dripchunk': 'too slow: over 300 seconds',
    'onemore': f'more than the {TOY[IMAGES][2]:,} bytes',
    'http403': 'HTTPError: 403', 'http404': 'HTTPError: 404', 'http500': 'HTTPError: 500',
    'http503': 'HTTPError: 503', 'loop': 'TooManyRedirects', 'hang': 'ReadTimeout',
    'trickle': 'too slow: ', 'reset': 'Connection', 'cut': 'IncompleteRead',
    'short': 'damaged gzip', 'long': f'more than the {TOY[IMAGES][2]:,} bytes',
    'endless': 'more than the',
    'wrong': f'where {IMAGES} of mnist should be',
    'page': f'an HTML page of 4,512 bytes where {IMAGES} of mnist should be',
    'flip': 'damaged gzip', 'empty': f'an empty file where {IMAGES}', 'unpacked': 'more than the',
    'badhost': 'Invalid', 'notutf8': 'Error', 'badlength': 'Error'}


@pytest.mark.parametrize('kind', FAULTS)
def test_mirror_with_a_fault(kind, mirrors, monkeypatch):
    monkeypatch.setattr(files, 'time', SimpleNamespace(
        time=time.time, monotonic=lambda: time.monotonic() + Faulty.late))
    if kind.startswith('drip'):
        monkeypatch.setattr(files, 'Thread', Hasty)
    url, _ = mirrors(kind, 'good')
    if kind == 'hang':  # one wait is enough
        folder(cache_folder()/'mnist', train_images_idx3_ubyte=None)
    fetch_dataset(timeout=5. if kind == 'hang' else 30.)
    assert all_right(download=False)
    got = list((cache_folder()/'mnist').iterdir())
    assert sorted(p.name for p in got) == sorted(f'{f}.gz' for f in FILES)
    for path in got:
        path.unlink()
    mirrors(kind, timeout=0.1 if kind == 'hang' else 30.)
    text = says(FAULTS[kind])
    assert f'{url}{IMAGES}.gz: ' in text and 'By hand' in text and text.startswith('no mirror gave')
    assert list((cache_folder()/'mnist').iterdir()) == []


@pytest.mark.parametrize('kind', ['good', 'chunked', 'packs'])
def test_mirror_without_a_fault(kind, mirrors):
    mirrors(kind)
    assert all_right()


@pytest.mark.parametrize('slow, right', [(29_000, True), (31_000, False)])
def test_a_download_may_take_ten_timeouts(slow, right, mirrors, monkeypatch):
    monkeypatch.setattr(Faulty, 'late', 0)
    monkeypatch.setattr(Faulty, 'slow', slow)
    monkeypatch.setattr(files, 'time', SimpleNamespace(
        time=time.time, monotonic=lambda: time.monotonic() + Faulty.late))
    mirrors('trickle', timeout=3000.)
    assert all_right() if right else says('too slow: ')


def test_no_server(monkeypatch):
    monkeypatch.setitem(MIRRORS, 'mnist', ('http://127.0.0.1:9/',))
    text = says('refused')
    assert 'By hand' in text and TOY[IMAGES][1] in text and str(cache_folder()) in text


def test_only_what_lacks_is_fetched(mirrors):
    mirrors('good')
    fetch_dataset()
    spoilt, kept = [cache_folder()/'mnist'/f'{file}.gz' for file in FILES[:2]]
    before = kept.stat().st_mtime_ns
    spoilt.write_bytes(b'spoilt')
    with pytest.warns(UserWarning, match='passed over .*cache.mnist: .*6 bytes'):
        assert all_right()
    assert kept.stat().st_mtime_ns == before


def test_nothing_is_said_where_nobody_looks(mirrors, capfd):
    mirrors('http404', 'good')
    fetch_dataset()
    assert capfd.readouterr() == ('', '')


def test_a_bar_where_somebody_looks(mirrors, capfd, monkeypatch):
    mirrors('good')
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    fetch_dataset()
    assert '100%' in capfd.readouterr().err


CHILD = '''
import sys, warnings
from mnist_mb import files
warnings.simplefilter('ignore')
files.DATASETS['mnist'], files.MIRRORS['mnist'] = {toy!r}, {mirrors!r}
'''


def child(code, mirrors, **kw):
    "A process of its own that fetches the toy set."
    code = CHILD.format(toy=TOY, mirrors=mirrors) + code
    return subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.PIPE, env=os.environ | kw)


def test_killed_in_mid_download(mirrors):
    Faulty.halfway.clear()
    process = child('files.find_dataset()', mirrors('stall'))
    assert Faulty.halfway.wait(FAR)
    while not (left := [p for p in (cache_folder()/'mnist').glob('tmp*') if p.stat().st_size]):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    mirrors('good')
    assert all_right()
    old, young, gone = [cache_folder()/'mnist'/f'tmp-{name}' for name in ('old', 'young', 'gone')]
    for path, hours in (old, 25), (young, 23):
        path.touch()
        os.utime(path, (time.time() - 3600*hours,)*2)
    gone.symlink_to('nowhere')  # for what vanishes while it is looked at
    fetch_dataset()
    assert left[0].exists() and young.exists(), 'somebody may be fetching right now'
    assert not old.exists()


def test_several_processes_at_once(mirrors):
    urls = mirrors('good')
    code = ('files.DATASETS["fashion"], files.MIRRORS["fashion"] = [*files.DATASETS.values()][0], '
            '[*files.MIRRORS.values()][0]\n'
            'arrays, _ = files.find_dataset(name={!r}); print(*map(len, arrays))')
    together = [child(code.format(name), urls) for name in ('mnist', 'fashion')*3]
    for process in together:
        out, err = process.communicate(timeout=FAR)
        assert out.split() == ['60000', '60000', '10000', '10000'], out + err
    assert all_right(download=False)


def test_disk_full(mirrors):
    resource = pytest.importorskip('resource')
    assert resource
    code = ('import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**4, 10**4))\n'
            'try: files.find_dataset()\n'
            'except files.DataError as e: print(e)')
    out, err = child(code, mirrors('good')).communicate(timeout=FAR)
    assert 'File too large' in out, out + err


def test_no_folder_for_the_cache(mirrors, tmp_path):
    (tmp_path/'cache').write_text('a file where the cache should be')
    mirrors('good')
    assert 'By hand' in says("can't write into")
    assert cached('x', [(1,)], lambda: [np.ones(1, np.uint8)])[0] == 1


@pytest.mark.parametrize('closed', ['folder', 'file', 'data', 'cache', 'cache/mnist'])
def test_no_permission(closed, user, mirrors, monkeypatch):
    monkeypatch.setenv('MNIST_MB_CACHE', str(user/'cache'))
    monkeypatch.chdir(user)
    path = folder(user/('data' if closed == 'data' else 'here'))
    shut = path/f'{LABELS}.gz' if closed == 'file' else path
    if closed.startswith('cache'):
        shut = user/closed
        shut.mkdir(parents=True)
    shut.chmod(0o555 if closed == 'cache/mnist' else 0)
    try:
        if closed in ('folder', 'file'):
            says('ermission denied', path)
        elif closed == 'data':
            assert all_right(download=True) if mirrors('good') else None
        else:
            mirrors('good')
            says("can't write into")
            assert cached('mnist/x', [(1,)], lambda: [np.ones(1, np.uint8)])[0] == 1
    finally:
        shut.chmod(0o700)


def test_a_cache_with_an_impossible_name(monkeypatch, mirrors):
    monkeypatch.setenv('MNIST_MB_CACHE', 'x'*300)
    mirrors('good')
    says("can't write into")
    assert cached('x', [(1,)], lambda: [np.ones(1, np.uint8)])[0] == 1


@pytest.mark.parametrize('path', ['x'*300, 'x'*5000, 'a\0b', '~nobody-of-this-name/x'])
def test_impossible_paths(path):
    with pytest.raises(DataError):
        read_dataset(path)


# files on disk
def closed_to_all(path):
    os.symlink(path.name, path)  # a link to itself: nobody can read it, not even root


def pipe(path):
    os.mkfifo(path)


bomb = gzip.compress(bytes(10**8), 6)
huge = bytes([0, 0, 8, 3]) + struct.pack('>3I', 60_000, 280, 280)
ten = RAW[LABELS][:8] + bytes([12]) + RAW[LABELS][9:]
count = RAW[LABELS][:4] + struct.pack('>I', 59_999) + RAW[LABELS][8:-1]

ON_DISK = {
    'gzip cut short': ('images', GZ[IMAGES][:-9], 'damaged gzip file'),
    'gzip with a flipped bit': ('images', flipped(GZ[IMAGES]), 'damaged gzip file'),
    'wrong magic number': ('labels', b'\0\0\x0d' + RAW[LABELS][3:], f'where {LABELS}'),
    'wrong count': ('labels', count, 'shape (59999,)'),
    'promises 4 GB': ('images', huge, 'that begin with'),
    'trailing bytes': ('labels', RAW[LABELS] + b'\0\0', '60,010 bytes'),
    'a label of 12': ('labels', ten, 'values up to 12'),
    'one bit in a label': ('labels', flipped(RAW[LABELS]), f'where {LABELS}'),
    'files swapped': ('labels', GZ[FILES[3]], 'shape (10000,)'),
    'empty': ('labels', b'', 'an empty file where'),
    'a web page': ('labels', PAGE, 'an HTML page of 4,512 bytes where'),
    'a folder': ('labels', Path.mkdir, 'no file where'),
    'unreadable': ('labels', closed_to_all, 'lacks train-labels'),
    'missing': ('labels', None, 'lacks train-labels'),
    'a zip bomb': ('labels', bomb[:50_000], f'where {LABELS}'),
    'a zip bomb in images': ('images', bomb, f'where {IMAGES}'),
}
if hasattr(os, 'mkfifo'):
    ON_DISK['a pipe'] = ('labels', pipe, 'no file where')


@pytest.mark.parametrize('fault', ON_DISK)
def test_folder_with_a_fault(fault, tmp_path):
    which, content, words = ON_DISK[fault]
    file = {'images': IMAGES, 'labels': LABELS}[which].replace('-', '_')
    text = says(words, folder(tmp_path/'here', **{file: content}))
    assert str(tmp_path/'here') in text


def test_long_file_is_not_opened(tmp_path, monkeypatch):
    path = folder(tmp_path/'here', train_labels_idx1_ubyte=None)/LABELS
    with open(path, 'wb') as f:
        f.truncate(10**11)  # it takes no space
    says('100,000,000,000 bytes where', path.parent)


@pytest.mark.parametrize('content', [RAW[LABELS], gzip.compress(RAW[LABELS], 9)])
def test_unzipped_or_zipped_again_is_right(content, tmp_path):
    assert all_right(folder(tmp_path/'here', train_labels_idx1_ubyte=content))


def test_names_with_a_dot(tmp_path):
    here = folder(tmp_path/'here')
    for path in here.iterdir():
        path.rename(here/path.name.replace('-idx', '.idx'))
    assert all_right(here)


@pytest.mark.parametrize('good', ['.gz', ''])
def test_half_a_file_beside_the_good_one(good, tmp_path):
    here = folder(tmp_path/'here')
    if not good:
        (here/f'{IMAGES}.gz').write_bytes(GZ[IMAGES][:10_000])
    (here/IMAGES).write_bytes(RAW[IMAGES] if not good else RAW[IMAGES][:10**6])
    assert all_right(here)


@pytest.mark.parametrize('inside', ['', 'MNIST/raw'])
def test_torchvision(inside, tmp_path):
    folder(tmp_path/'data'/'MNIST'/'raw')
    assert all_right(tmp_path/'data'/inside)
    assert find_dataset(download=False)[1] == 'data'


def test_files_in_folders_of_their_names(tmp_path):
    here = folder(tmp_path/'here', train_images_idx3_ubyte=Path.mkdir)
    (here/IMAGES/IMAGES).write_bytes(RAW[IMAGES])
    assert all_right(here)


def npz(path, **changed):
    names = dict(zip(('x_train', 'y_train', 'x_test', 'y_test'), ARRAYS)) | changed
    np.savez(path, **{name: a for name, a in names.items() if a is not None})
    return path


def test_mnist_of_keras(tmp_path, monkeypatch):
    path = npz(tmp_path/'mnist.npz', y_train=ARRAYS[1].astype(int))
    assert all_right(path) and all_right(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        (tmp_path/'data').mkdir()
        path.rename(tmp_path/'data'/'mnist.npz')
        assert find_dataset(download=False)[1] == 'data'
    monkeypatch.setattr(files, '_MOST', path.write_bytes(b'PK') + 10**8)
    np.savez_compressed(path, x_train=np.zeros(10**8 + 10, np.uint8))
    says('too large for MNIST', path)
    np.savez(path, *range(10))
    says('(ValueError: more than nine files); MNIST is read', path)


@pytest.mark.parametrize('changed, words', [
    (dict(x_test=None), 'x_test is not a file in the archive'),
    (dict(x_train=ARRAYS[0][::-1]), f'where {IMAGES} of mnist should be'),
    (dict(y_test=np.array(None)), 'allow_pickle'), (dict(x_train=np.zeros((3, 5))), 'reshape')])
def test_an_npz_of_other_arrays(changed, words, tmp_path):
    says(words, npz(tmp_path/'mnist.npz', **changed))


def packed(archive):
    "An archive with a file in it."
    content = io.BytesIO()
    with archive(content) as packer:
        if isinstance(packer, zipfile.ZipFile):
            packer.writestr(LABELS, RAW[LABELS])
        else:
            packer.addfile(tarfile.TarInfo('x'))
    return content.getvalue()


TAR = packed(lambda content: tarfile.open(fileobj=content, mode='w'))
OTHERS = {
    'train.csv': (b'label,pixel0\n5,0\n', "text of 17 bytes that begins with 'label,pixel0'"),
    'mnist.arff': (b'@RELATION mnist_784\n', "that begins with '@RELATION mnist_784'"),
    'train.parquet': (b'PAR1' + bytes(9), 'a Parquet file of 13 bytes'),
    'archive.zip': (packed(lambda content: zipfile.ZipFile(content, 'w')), 'a zip archive of '),
    'mnist.tar': (TAR, 'a tar archive of '), 'mnist.tgz': (gzip.compress(TAR), 'a tar archive of '),
    '1.png': (b'\x89PNG\r\n', 'a PNG picture of'), '1.jpg': (b'\xff\xd8\xff', 'a JPEG picture'),
    'x.npy': (b'\x93NUMPY\1', 'a NumPy array'), 'x.h5': (b'\x89HDF\r\n', 'an HDF5 file of 6 bytes')}


@pytest.mark.parametrize('name', OTHERS)
def test_what_else_is_named_in_one_line(name, tmp_path):
    content, words = OTHERS[name]
    (tmp_path/name).write_bytes(content)
    text = says(words, tmp_path/name)
    assert 'MNIST is read from a folder with its four files' in text and 'make_splits' in text
    assert '\n' not in text and len(text) < 500
    assert 'make_splits' in says(f'{tmp_path} lacks', tmp_path)


@pytest.mark.parametrize('name', FILES[:2])
def test_a_single_file_names_its_folder(name, tmp_path):
    here = folder(tmp_path/'here')
    for set in ('mnist', 'fashion'):
        says(f'an IDX file of {len(RAW[name]):,} bytes, ', here/f'{name}.gz', name=set)
        says(f'give its folder, {here}', here/f'{name}.gz', name=set)


@pytest.mark.parametrize('bad', ['mnist.pkl.gz', LABELS])
def test_whichever_layout_is_right(bad, right_pickle, tmp_path):
    here = tmp_path/'here'
    here.mkdir()
    (here/bad).write_bytes(b'\x80\2half')
    with gzip.open(right_pickle) as f:
        (here/'mnist.pkl').write_bytes(f.read())
    assert all_right(here)
    (here/'mnist.pkl').write_bytes(PAGE)
    says('HTML page', here)
    assert all_right(folder(here))


@pytest.mark.parametrize('word, meant', [
    ('MNIST', 'set mnist?'), ('fashion-mnist', 'set fashion?'), ('FashionMNIST', 'set fashion?'),
    ('kmist', 'set kmnist?'), ('emnist', 'set mnist?'), ('Drawn', 'set drawn?'),
    ('else', 'set mnist or fashion or kmnist or drawn?')])
def test_a_word_that_means_a_set(word, meant):
    assert says(f'there is no file or folder {word}; did you mean the ', word).endswith(meant)


def test_a_path_that_is_not_there(tmp_path):
    assert says('there is no file or folder', tmp_path/'mnist').endswith(f'{tmp_path/"mnist"}')


def test_a_set_known_by_its_zipped_files_alone(tmp_path, monkeypatch):
    zipped = {file: (None, *known[1:]) for file, known in TOY.items()}
    monkeypatch.setitem(DATASETS, 'fashion', zipped)
    here = folder(tmp_path/'here')
    assert all_right(here, name='fashion')
    (here/f'{LABELS}.gz').write_bytes(gzip.compress(RAW[LABELS], 9))
    says(f'where {LABELS} of fashion should be', here, name='fashion')


# looking in every place
def test_order_of_places(tmp_path, monkeypatch):
    def found(**kw):
        return find_dataset(download=False, **kw)[1]
    monkeypatch.setitem(DATASETS, 'fashion', TOY)
    monkeypatch.setattr(files, 'read_dataset', lambda place, name: Path(place))
    says('downloading is off', download=False)
    for place in (f'{tmp_path}/cache/mnist', 'data'):
        folder(Path(place))
        assert found() == place
    folder(Path('data/fashion'))
    assert found(name='fashion') == 'data/fashion'
    monkeypatch.setenv('MNIST_MB_DATA', str(tmp_path/'mine'))
    assert found() == str(tmp_path/'mine')
    assert found(name='fashion') == 'data/fashion'
    folder(tmp_path/'mine'/'fashion')
    assert found(name='fashion') == str(tmp_path/'mine'/'fashion')
    assert found(path='given') == 'given'


@pytest.mark.parametrize('name', ['mnist.pkl.gz', 'mnist.pkl', LABELS, 't10k-labels.idx1-ubyte'])
def test_what_shows_that_a_folder_is_meant(name, tmp_path):
    (tmp_path/'data').mkdir()
    (tmp_path/'data'/name).write_bytes(PAGE)
    with pytest.warns(UserWarning, match='passed over data: '):
        says('downloading is off', download=False)


def test_another_data_folder_is_left_alone(tmp_path):
    (tmp_path/'data').mkdir()
    (tmp_path/'data'/'train.csv').write_bytes(b'label,pixel0')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        says('downloading is off', download=False)


def test_a_wrong_folder_is_passed_over_aloud(mirrors):
    folder(Path('data'), train_images_idx3_ubyte=PAGE)
    mirrors('good')
    with pytest.warns(UserWarning, match='passed over data: .*HTML page'):
        assert all_right()


def test_a_named_folder_must_be_right(mirrors, monkeypatch):
    here = folder(Path('mine').absolute(), train_images_idx3_ubyte=PAGE)
    monkeypatch.setenv('MNIST_MB_DATA', str(here))
    mirrors('good')
    says('HTML page')


@pytest.mark.parametrize('home', ['~', '$HOME', '${HOME}', '$TILDE'])
def test_home_and_variables(home, tmp_path, monkeypatch):
    monkeypatch.setenv('TILDE', '~')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    monkeypatch.setitem(DATASETS, 'fashion', TOY)
    folder(tmp_path/'mine')
    folder(tmp_path/'mine'/'fashion')
    assert all_right(f'{home}/mine')
    monkeypatch.setenv('MNIST_MB_DATA', f'{home}/mine')
    assert all_right() and all_right(name='fashion')
    monkeypatch.setenv('MNIST_MB_CACHE', f'{home}/kept')
    assert cache_folder() == tmp_path/'kept'
    write_whole(f'{home}/note', lambda path: path.write_text('x'))
    assert (tmp_path/'note').read_text() == 'x'


@pytest.mark.parametrize('how', ['argument', 'variable'])
def test_offline_touches_no_network(how, monkeypatch):
    def touched(*_):
        raise AssertionError('the network was touched')
    monkeypatch.setattr(socket.socket, 'connect', touched)
    monkeypatch.setenv('MNIST_MB_OFFLINE', '1' if how == 'variable' else '0')
    assert 'By hand' in says('no mnist here, and downloading is off', download=how == 'variable')


# pickles
def toy_pickle(scale=256, protocol=2):
    x, y, xt, yt = ARRAYS
    x, xt = [a.reshape(-1, 784).astype(np.float32)/scale for a in (x, xt)]
    y, yt = y.astype(np.int64), yt.astype(np.int64)
    pairs = (x[:50_000], y[:50_000]), (x[50_000:], y[50_000:]), (xt, yt)
    return pickle.dumps(pairs, protocol)


@pytest.fixture(scope='module')
def right_pickle(tmp_path_factory):
    path = tmp_path_factory.mktemp('pickle')/'mnist.pkl.gz'
    path.write_bytes(gzip.compress(toy_pickle(), 1))
    return path


def test_the_right_pickle(right_pickle, tmp_path):
    assert all_right(right_pickle) and all_right(right_pickle.parent)
    with gzip.open(right_pickle) as f:
        (tmp_path/'mnist.pkl').write_bytes(f.read())
    assert all_right(tmp_path)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('kind', ['f4', 'f8'])
def test_arrays_in_every_protocol(protocol, kind):
    pixels = np.arange(6).reshape(2, 3)/256
    for a in (pixels.astype(kind), np.asfortranarray(pixels.astype(kind))):
        x, y = ArrayUnpickler(io.BytesIO(pickle.dumps((a, np.array([5, 0])), protocol))).load()
        assert x.bytes.tolist() == [[0, 1, 2], [3, 4, 5]] and y.bytes.tolist() == [5, 0]


def test_what_python_2_wrote():
    py2 = (b'\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01'
           b'cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87R'
           b'(K\x01K\x03\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff'
           b'J\xff\xff\xff\xffK\x00tb\x89U\x03\x05\x00\xfetb.')
    assert ArrayUnpickler(io.BytesIO(py2)).load().bytes.tolist() == [5, 0, 254]


def test_a_type_is_two_letters():
    "A type of a million fields takes NumPy long, so the rest of its name is never read."
    many = pickle.dumps('f4' + ',f4'*1000, 2)[2:-1]
    content = (b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01K\x02\x85cnumpy\ndtype\n('
               + many + b'tR\x89U\x08' + np.float32([.5, .25]).tobytes() + b'tb.')
    assert ArrayUnpickler(io.BytesIO(content)).load().bytes.tolist() == [128, 64]


class Calls:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def asks_for(name, args=()):
    "A pickle that calls module.name with the arguments."
    module, _, fn = name.rpartition('.')
    return f'\x80\x02c{module}\n{fn}\n'.encode('latin1') + pickle.dumps(args, 2)[2:-1] + b'R.'


def trio(top):
    return pickle.dumps([(np.full((2, 784), top, np.float32), np.zeros(2, np.int64))]*3, 2)


def twice_three(a):
    return pickle.dumps([(a, a)]*3, 2)


NO = ' bytes ('  # then what Python says
HOSTILE = {
    'os.system': (pickle.dumps(Calls(os.system, ('touch pwned',))), 'asks for posix.system'),
    'eval': (pickle.dumps(Calls(eval, ('open("pwned", "w")',))), 'asks for builtins.eval'),
    'numpy.load': (asks_for('numpy.load', ('/dev/zero',)), 'asks for numpy.load'),
    "numpy's own loader": (asks_for('numpy.lib.npyio.load', ('x',)), 'asks for numpy.lib'),
    'a name that looks right': (asks_for('numpy.core.shape_base.vstack'), 'asks for numpy.core'),
    'ndarray of 100 GB': (asks_for('numpy.ndarray', ((100 << 30,),)), NO),
    '4 GB promised': (b'\x80\x04\x8e' + struct.pack('<Q', 4 << 30) + b'x', NO),
    'nested deep': (b'\x80\x02' + b']'*500_000 + b'a'*499_999 + b'.', 'takes too many steps'),
    'an object array': (twice_three(np.array([None, 1], object)), NO),
    'a type of many fields': (twice_three(np.zeros(2, 'f4,f4')), NO),
    'unzips to 260 MB': (b'\x80\x03B' + b'\xff'*4 + bytes(260_000_000), '250,000,001 bytes'),
    'other arrays': (trio(.5), f'shape (4, 28, 28), values up to 128 where {IMAGES}'),
    'arrays with nan': (trio(np.nan), f'where {IMAGES} of mnist should be'),
    'cut short': (trio(.5)[:500], NO),
    'a dict of arrays': (pickle.dumps({'train': np.zeros((6, 784), np.uint8)}, 2), NO),
    'labels alone': (twice_three(np.zeros(3)), f'where {IMAGES}'),
    'pictures of one row': (twice_three(np.zeros((3, 9))), 'cannot reshape'),
    'one array six times': (twice_three(np.zeros(42_000_000, np.uint8)), 'too large for MNIST'),
    'a web page': (PAGE, 'an HTML page of 4,512 bytes; MNIST is read'),
    'an IDX file': (RAW[LABELS], 'an IDX file of 60,008 bytes, shape (60000,)'),
    'a table': (b'label,pixel0\n5,0\n', "begins with 'label,pixel0'; MNIST is read"),
    'half a zip archive': (b'PK\x03\x04' + bytes(100), 'a zip archive of 104 bytes (BadZip'),
    'nothing': (b'', 'an empty file; MNIST is read'),
}


@pytest.mark.parametrize('fault', HOSTILE)
@pytest.mark.parametrize('pack', [bytes, lambda content: gzip.compress(content, 1)])
def test_pickle_with_a_fault(fault, pack, tmp_path):
    content, words = HOSTILE[fault]
    path = tmp_path/'mnist.pkl.gz'
    path.write_bytes(pack(content))
    if fault == 'unzips to 260 MB' and pack is bytes:
        words = '260,000,007 bytes are too many'
    assert str(path) in says(words, path)
    assert not Path('pwned').exists()


ARRAY = b'\x80\x02cnumpy.core.multiarray\n_reconstruct\n(tR'
STATE = b'(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1\x85R\x89U\x02\x05\x04t'
BOMBS = {
    'an object numbered 2**27': b'\x80\x02]r' + struct.pack('<I', 1 << 27) + b'.',
    'the same in text': b'\x80\x02]p134217728\n.',
    'a state that is set 100,000 times': ARRAY + STATE + b'q\1b' + b'h\1b'*100_000 + b'.',
    'lists in lists': b'\x80\x02' + b']'*100_000 + b'a'*99_999 + b'.',
    'a tuple doubled 30 times': b'\x80\x02)' + b'q\1h\1\x86'*1000 + b'.'}


@pytest.mark.parametrize('bomb', BOMBS)
def test_a_small_pickle_that_asks_for_much(bomb, tmp_path):
    (tmp_path/'mnist.pkl').write_bytes(BOMBS[bomb])
    tracemalloc.start()
    try:
        says('takes too many steps', tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def test_pixels_on_another_scale(tmp_path):
    (tmp_path/'mnist.pkl').write_bytes(toy_pickle(scale=255, protocol=4))
    says(f'where {IMAGES} of mnist should be', tmp_path)


def test_a_pickle_can_change_nothing_of_numpy():
    change = b'\x80\x02cnumpy._core.numeric\n_frombuffer\n}X\x04\x00\x00\x00evilK\x01sb.'
    ArrayUnpickler(io.BytesIO(change)).load()
    assert not hasattr(np._core.numeric._frombuffer, 'evil')
    before = str(np.dtype('f4'))
    swap = b'\x80\x02cnumpy\ndtype\nU\x02f4K\x00K\x00\x87R(K\x03U\x01>NNNK\x08K\x08K\x3ftb.'
    ArrayUnpickler(io.BytesIO(swap)).load()
    assert str(np.dtype('f4')) == before and np.ones(1, 'f4').nbytes == 4


# parts
TINY = bytes([0, 0, 8, 1,  0, 0, 0, 3,  5, 0, 4])
PAIR = bytes([0, 0, 8, 2,  0, 0, 0, 2,  0, 0, 0, 3]) + bytes(range(6))


def test_parse_idx():
    assert parse_idx(TINY).tolist() == [5, 0, 4]
    assert parse_idx(PAIR).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert parse_idx(PAIR).dtype == np.uint8


@pytest.mark.parametrize('bad, words', [
    (b'', 'no IDX'), (b'<!DOCTYPE html>', 'DOCTYPE'), (TINY + b'1', 'has 12'),
    (TINY[:6], 'promises'),
    (b'\0\0\x0d' + TINY[3:], 'no IDX'), (TINY[:3], 'no IDX'), (TINY[:4], 'promises'),
    (bytes([0, 0, 8, 65]) + b'\0\0\0\1'*65 + b'\7', 'no IDX'), (bytes([0, 0, 8, 0, 7]), 'no IDX')])
def test_parse_idx_refuses(bad, words):
    with pytest.raises(DataError, match=words):
        parse_idx(bad, 'x')


def test_verify_needs_all_of_it():
    assert verify(GZ[LABELS], LABELS) == verify(RAW[LABELS], LABELS) == RAW[LABELS]
    two = gzip.compress(RAW[LABELS][:4]) + gzip.compress(RAW[LABELS][4:])
    assert verify(two, LABELS) == RAW[LABELS]  # gzip may come in pieces
    for bad in (RAW[LABELS][:-1], RAW[LABELS] + b'\0', RAW[FILES[3]]):
        with pytest.raises(DataError, match=f'where {LABELS} of mnist should be'):
            verify(bad, LABELS)


def test_write_whole(tmp_path):
    note, link = tmp_path/'note', tmp_path/'link'
    write_whole(note, lambda path: path.write_text('one'))
    with pytest.raises(ZeroDivisionError):
        write_whole(note, lambda path: path.write_text('half') and 1/0)
    assert note.read_text() == 'one'
    link.symlink_to(note)
    write_whole(link, lambda path: path.write_text('two'))
    assert link.is_symlink() and note.read_text() == 'two'
    assert sorted(os.listdir(tmp_path)) == ['link', 'note']
    with pytest.raises(FileExistsError):
        write_whole(tmp_path, lambda path: path.write_text('x'))
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
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path/'no'/'x', lambda path: path.write_text('x'))


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes')
def test_write_whole_leaves_a_pipe_alone(tmp_path):
    pipe(tmp_path/'pipe')
    with pytest.raises(FileExistsError, match='no regular file'):
        write_whole(tmp_path/'pipe', lambda path: path.write_text('x'))
    assert not (tmp_path/'pipe').is_file()


SHAPES = [(50, 3), (50,)]


def made(log=None):
    if log is not None:
        log.append('made')
    return [np.arange(150, dtype=np.uint8).reshape(50, 3), np.arange(50, dtype=np.uint8)]


def kept(log):
    arrays = cached('some', SHAPES, lambda: made(log))
    return all(np.array_equal(a, b) for a, b in zip(arrays, made(), strict=True))


def test_cached():
    log = []
    assert kept(log) and kept(log) and log == ['made']
    assert os.listdir(cache_folder()) == ['some.npz']


def test_cached_believes_no_flipped_bit():
    assert kept([])
    file = cache_folder()/'some.npz'
    content, rng = file.read_bytes(), np.random.default_rng(0)
    for at, bit in zip(rng.integers(len(content), size=200), rng.integers(8, size=200)):
        file.write_bytes(flipped(content, bit, at))
        assert kept([]), (at, bit)


def some(file, *arrays):
    np.savez(file, **{f'some-{i}': a for i, a in enumerate(arrays)})


@pytest.mark.parametrize('spoil', [
    lambda file: file.write_bytes(file.read_bytes()[:100]),
    lambda file: file.write_bytes(b''),
    lambda file: some(file, made()[0][1:], made()[1]),
    lambda file: some(file, made()[0], made()[1].astype(int)), lambda file: some(file, made()[0]),
    lambda file: some(file, np.array([Calls(os.system, ('touch pwned',))]), made()[1]),
    lambda file: np.savez(file, **{'other-0': made()[0], 'other-1': made()[1]}),
    lambda file: file.write_bytes(pickle.dumps(Calls(os.system, ('touch pwned',))))])
def test_cached_makes_anew(spoil):
    log = []
    kept(log)
    spoil(cache_folder()/'some.npz')
    assert kept(log) and log == ['made']*2 and kept(log) and log == ['made']*2
    assert not Path('pwned').exists()


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes')
def test_cached_does_not_wait_for_a_pipe():
    cache_folder().mkdir()
    pipe(cache_folder()/'some.npz')
    assert kept([])


@pytest.mark.parametrize('call', [
    lambda: find_dataset(name='mnits'), lambda: read_dataset('.', 'mnits'),
    lambda: fetch_dataset('mnits'), lambda: verify(b'', LABELS, 'mnits')])
def test_no_such_set(call):
    with pytest.raises(ValueError, match="name is 'mnits'; it can be one of mnist, fashion"):
        call()
    with pytest.raises(ValueError, match="file is 'labels'; it can be one of train-images"):
        verify(b'', 'labels')
    assert not cache_folder().exists()


def test_known_sets():
    for name, known in DATASETS.items():
        assert tuple(known) == FILES and set(MIRRORS) == set(DATASETS)
        assert all(len(zipped) == 64 and size > 100 for _, zipped, size in known.values())
        assert all(url.endswith('/') for url in MIRRORS[name])


# the real one
@pytest.fixture
def real(mnist, monkeypatch):
    "The folder with MNIST, and the true checksums."
    monkeypatch.undo()
    return Path(os.environ['MNIST_MB_DATA']).expanduser()


@pytest.mark.mnist
def test_layouts_of_the_real_mnist(real, tmp_path):
    arrays = read_dataset(real)
    assert [a.shape for a in arrays] == [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    assert arrays[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    folder = tmp_path/'unzipped'
    folder.mkdir()
    for file, a in zip(FILES, arrays):
        (folder/file).write_bytes(idx(a))
    others = [read_dataset(folder)]
    if (real/'mnist.pkl.gz').is_file():
        others.append(read_dataset(real/'mnist.pkl.gz'))
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(arrays, other, strict=True))


MEMORY = '''
import sys
from mnist_mb import data
def peak():
    return 1024*int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
before = peak()
splits = data.load_mnist(sys.argv[1])
print((peak() - before)/sum(t.nbytes for pair in splits for t in pair))
'''


@pytest.mark.mnist
@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads /proc')
@pytest.mark.parametrize('name, most', [('', 2.5), ('mnist.pkl.gz', 3.5)])
def test_memory(name, most, real):
    out = subprocess.run([sys.executable, '-c', MEMORY, str(real/name)],
                         capture_output=True, text=True, check=True)
    assert float(out.stdout) <= most, out.stdout
