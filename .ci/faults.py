"""What users report about data, produced on purpose; `faults.py FOLDER`, with the real MNIST in it.

Each fault must end in the right data from the next source, or in a DataError that names it.
"""
import contextlib
import gzip
import http.server
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from mnist_mb import data
from mnist_mb.data import FILES, DataError, load_mnist

REAL = Path(sys.argv[1])
GZ = {file: (REAL/f'{file}.gz').read_bytes() for file in FILES}
RAW = {file: gzip.decompress(zipped) for file, zipped in GZ.items()}
IMAGES, LABELS = FILES[:2]
RIGHT = load_mnist(REAL)
PAGE = b'<!DOCTYPE html><html><title>Sorry</title>' + b' '*4471
FAULTS = {}  # the first part of a path -> what the server does with the request


class Server(http.server.BaseHTTPRequestHandler):
    """Serves the real files under /good/, and faults under the names in FAULTS."""
    def log_message(self, *_):
        pass

    def send(self, body, status=200, length=None):
        self.send_response(status)
        self.send_header('Content-Length', str(len(body) if length is None else length))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def do_GET(self):
        kind, file = self.path.strip('/').split('/')
        FAULTS.get(kind, lambda self, body: self.send(body))(self, GZ[file.removesuffix('.gz')])


def trickle(self, body):
    self.send_response(200)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    with contextlib.suppress(OSError):
        for i in range(600):
            self.wfile.write(body[i:i+1])
            time.sleep(0.02)


def reset(self, body):
    self.send(body[:len(body)//2], length=len(body))
    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    self.connection.close()


def loop(self, body):
    self.send_response(302)
    self.send_header('Location', self.path)
    self.send_header('Content-Length', '0')
    self.end_headers()


def flipped(zipped):
    i = len(zipped)//2
    return zipped[:i] + bytes([zipped[i] ^ 1]) + zipped[i+1:]


for status in (403, 404, 500, 503):
    FAULTS[f'http{status}'] = lambda self, body, status=status: self.send(PAGE, status)
FAULTS |= {
    'loop': loop, 'trickle': trickle, 'reset': reset,
    'hang': lambda self, body: time.sleep(5),
    'short': lambda self, body: self.send(body[:-1000]),
    'cut': lambda self, body: self.send(body[:-1000], length=len(body)),
    'long': lambda self, body: self.send(body + bytes(1000)),
    'wrong': lambda self, body: self.send(bytes(len(body))),
    'page': lambda self, body: self.send(PAGE),
    'flip': lambda self, body: self.send(flipped(body)),
    'empty': lambda self, body: self.send(b''),
    'slow': lambda self, body: (time.sleep(.5), self.send(body)),
}
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()


def mirrors(*kinds):
    return tuple(f'http://127.0.0.1:{server.server_port}/{kind}/' for kind in kinds)


def same(splits):
    "Is it MNIST, to the bit?"
    return all(torch.equal(a, b) for p, q in zip(splits, RIGHT, strict=True) for a, b in zip(p, q))


def held_back(folder):
    "Whatever in the cache is neither a right file nor nothing."
    return [p.name for p in Path(folder).rglob('*') if p.is_file() and RAW.get(p.name) != p.read_bytes()]


ROWS = []


def check(fault, expected, run):
    "Run it: MNIST if `expected` is True, else a DataError that says `expected`."
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as tmp, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        cache = f'{tmp}/cache'
        env = {'MNIST_MB_CACHE': cache, 'MNIST_MB_DATA': '', 'MNIST_MB_OFFLINE': ''}
        here = os.getcwd()
        os.chdir(tmp)
        try:
            with patch.dict(os.environ, env):
                ok, what = same(run(Path(tmp))), 'MNIST'
            ok = ok and expected is True
        except DataError as e:
            what = next((line for line in str(e).splitlines() if str(expected) in line), str(e))
            ok = expected is not True and str(expected) in what
        except BaseException:
            ok, what = False, traceback.format_exc()
        finally:
            os.chdir(here)
        if (Path(tmp)/'cache').is_dir() and (bad := held_back(cache)):
            ok, what = False, f'the cache holds {bad}'
    ROWS.append(ok)
    short = ' '.join(what.split())
    cut = short.find(str(expected)) if expected is not True else 0
    shown = short[max(0, cut):][:90] if ok else what
    print(f'{"ok  " if ok else "FAIL"}  {time.perf_counter() - start:5.1f} s  {fault:42}  {shown}', flush=True)


def fetching(*kinds, timeout=1.0):
    "Load from these mirrors, with a shorter patience than users need."
    def run(tmp):
        quick = lambda name: fetch(name, timeout)  # noqa: E731
        with patch.dict(data.MIRRORS, mnist=mirrors(*kinds)), patch.object(data, 'fetch_set', quick):
            return load_mnist()
    return run


def fetching_nowhere(tmp):
    with patch.dict(data.MIRRORS, mnist=('http://127.0.0.1:9/',)):
        return load_mnist()


fetch = data.fetch_set


def folder_with(**changed):
    "A folder with the real files, but for those that are changed: bytes, None, or a function."
    def run(tmp):
        (tmp/'here').mkdir()
        for file in FILES:
            content = changed.get(file.replace('-', '_'), GZ[file])
            if callable(content):
                content(tmp/'here'/file)
            elif content is not None:
                (tmp/'here'/file).write_bytes(content)
        return load_mnist(tmp/'here')
    return run


def pickled(content):
    def run(tmp):
        (tmp/'mnist.pkl.gz').write_bytes(gzip.compress(content, 1))
        return load_mnist(tmp/'mnist.pkl.gz')
    return run


def child(code, **kw):
    "A process of its own that fetches from the mirrors and the cache of this one."
    head = ('import sys, os, time, warnings; from mnist_mb import data; warnings.simplefilter("ignore"); '
            f'data.MIRRORS["mnist"] = {kw.pop("sources")!r}; ')
    return subprocess.Popen([sys.executable, '-c', head + code], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **kw)


def killed(tmp):
    process = child('data.load_mnist()', sources=mirrors('trickle'))
    for _ in range(200):
        time.sleep(0.1)
        if any((tmp/'cache').rglob('zipped')):
            break
    process.kill()
    process.wait()
    if not any((tmp/'cache').rglob('zipped')):
        raise AssertionError('it was killed too early or too late')
    for half in (tmp/'cache').rglob('.fetch-*'):
        os.utime(half, (0, 0))  # as if it had happened long ago
    result = fetching('good')(tmp)
    if list((tmp/'cache').rglob('.fetch-*')):
        raise AssertionError('the half download was left behind')
    return result


def eight(tmp):
    together = [child('print(len(data.load_mnist()[0][1]))', sources=mirrors('slow')) for _ in range(8)]
    for out, err in [p.communicate(timeout=120) for p in together]:
        if out.strip() != '50000':
            raise AssertionError(out + err)
    return load_mnist(download=False)


def full(tmp):
    limit = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)); '
    code = 'try: data.load_mnist()\nexcept data.DataError as e: print(e)'
    code = f'exec({limit!r}); exec({code!r})'
    out, err = child(code, sources=mirrors('good')).communicate(timeout=60)
    raise DataError(out) if out else AssertionError(err)


def no_folder(tmp):
    (tmp/'cache').write_text('a file where the cache should be')
    return fetching('good')(tmp)


def warned(tmp):
    (tmp/'data').mkdir()
    (tmp/'data'/f'{IMAGES}.gz').write_bytes(PAGE)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        result = fetching('good')(tmp)
    assert any('passed over data' in str(w.message) for w in seen), seen
    return result


def offline(**how):
    def run(tmp):
        os.environ['MNIST_MB_OFFLINE'] = how.pop('env', '')
        with patch('socket.socket.connect', side_effect=AssertionError('the network was touched')):
            return load_mnist(**how)
    return run


def unreadable(path):
    os.symlink(path.name, path)  # a link to itself: nobody can read it, not even root


class Calls:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def reduce_to(name, args):
    "A protocol-0 pickle that calls module.name with the pickled arguments."
    module, _, fn = name.rpartition('.')
    return f'c{module}\n{fn}\n'.encode() + pickle.dumps(args, 0)[:-1] + b'R.'


def zeros(top):
    image, label = np.zeros((2, 784), np.float32) + top, np.zeros(2, np.int64)
    return pickle.dumps([(image, label)]*3, 2)


bomb = gzip.compress(bytes(10**9), 9)
header = bytes([0, 0, 8, 3]) + struct.pack('>3I', 60_000, 280, 280)
ten = RAW[LABELS][:8] + bytes([12]) + RAW[LABELS][9:]
count = RAW[LABELS][:4] + struct.pack('>I', 59_999) + RAW[LABELS][8:-1]
nest = b'\x80\x02' + b']'*2_000_000 + b'a'*1_999_999 + b'.'
huge = b'\x80\x04\x8e' + struct.pack('<Q', 4 << 30) + b'x'
objects = pickle.dumps([(np.array([None, 1], object), np.zeros(2))]*3, 2)
long = b'\x80\x03B' + struct.pack('<I', 10**9) + bytes(400_000_000)
# one string of 100 MB, turned into bytes again and again
again = (b'\x80\x02c_codecs\nencode\nq\x01X' + struct.pack('<I', 10**8) + b'x'*10**8 + b'q\x02X'
         b'\x06\x00\x00\x00latin1q\x030(' + b'h\x01h\x02h\x03\x86R'*45 + b't.')

for kind, says in {
        'http403': 'HTTPError: 403', 'http404': 'HTTPError: 404', 'http500': 'HTTPError: 500',
        'http503': 'HTTPError: 503', 'loop': 'TooManyRedirects', 'hang': 'ReadTimeout',
        'trickle': 'TimeoutError: only', 'reset': 'OSError', 'cut': 'OSError', 'short': 'damaged gzip',
        'long': 'more than the 9,912,422', 'wrong': f'where {IMAGES} of mnist should be',
        'page': f'an HTML page of 4,512 bytes where {IMAGES} of mnist should be',
        'flip': 'damaged gzip', 'empty': f'an empty file where {IMAGES}'}.items():
    quick = 0.3 if kind in ('trickle', 'hang') else 5.0
    check(f'mirror: {kind}, then a good one', True, fetching(kind, 'good', timeout=quick))
    check(f'mirror: {kind} only', says, fetching(kind, timeout=quick))
check('no server at all', 'refused', fetching_nowhere)
check('a good mirror', True, fetching('good'))
check('gzip that is cut short', 'damaged gzip file', folder_with(train_images_idx3_ubyte=GZ[IMAGES][:-9]))
check('gzip with a flipped bit', 'damaged gzip file', folder_with(train_images_idx3_ubyte=flipped(GZ[IMAGES])))
check('zipped again: the same content', True,
      folder_with(train_labels_idx1_ubyte=gzip.compress(RAW[LABELS], 1)))
check('unzipped', True, folder_with(train_labels_idx1_ubyte=RAW[LABELS]))
check('IDX with the wrong magic number', f'where {LABELS}',
      folder_with(train_labels_idx1_ubyte=b'\0\0\x0d' + RAW[LABELS][3:]))
check('IDX with the wrong count', 'shape (59999,)', folder_with(train_labels_idx1_ubyte=count))
check('IDX that promises 4 GB', 'that begin with', folder_with(train_images_idx3_ubyte=header))
check('IDX with trailing bytes', '60,010 bytes', folder_with(train_labels_idx1_ubyte=RAW[LABELS] + b'\0\0'))
check('a label of 12', 'values up to 12', folder_with(train_labels_idx1_ubyte=ten))
check('files swapped', 'shape (10000,)', folder_with(train_labels_idx1_ubyte=GZ[FILES[3]]))
check('an empty file', 'an empty file where', folder_with(train_labels_idx1_ubyte=b''))
check('a web page on disk', 'an HTML page of 4,512 bytes where', folder_with(train_labels_idx1_ubyte=PAGE))
check('a folder where a file should be', 'no file where', folder_with(train_labels_idx1_ubyte=Path.mkdir))
check('a file that can\'t be read', 'lacks train-labels', folder_with(train_labels_idx1_ubyte=unreadable))
check('a pipe where a file should be', 'no file where', folder_with(train_labels_idx1_ubyte=os.mkfifo))
check('a file is missing', 'lacks train-labels', folder_with(train_labels_idx1_ubyte=None))
check('a zip bomb of 1 GB', f'where {LABELS}', folder_with(train_labels_idx1_ubyte=bomb[:60_000]))
check('a zip bomb in images', f'where {IMAGES}', folder_with(train_images_idx3_ubyte=bomb))
check('a wrong data/ is passed over', True, warned)
check('a path that is not there', 'no file or folder', lambda tmp: load_mnist(tmp/'nothing'))
check('download=False', 'downloading is off', offline(download=False))
check('MNIST_MB_OFFLINE=1', 'downloading is off', offline(env='1'))
check('the cache can\'t be made', "can't write into", no_folder)
check('the disk is full', 'File too large', full)
check('killed in mid-download, started again', True, killed)
check('eight processes at once', True, eight)
check('the right pickle', True, lambda tmp: load_mnist(REAL/'mnist.pkl.gz'))
check('pickle: os.system', 'asks for posix.system', pickled(pickle.dumps(Calls(os.system, ('touch pwned',)))))
check('pickle: builtins.eval', 'asks for builtins.eval', pickled(pickle.dumps(Calls(eval, ('1/0',)))))
check('pickle: numpy.load', 'asks for numpy.load', pickled(reduce_to('numpy.load', ('/dev/zero',))))
check('pickle: numpy\'s own loader', 'asks for numpy', pickled(reduce_to('numpy.lib.npyio.load', ('x',))))
check('pickle: ndarray of 100 GB', 'not callable',
      pickled(reduce_to('numpy.ndarray', ((100 << 30,),))))
check('pickle: 4 GB promised', 'longer than MNIST', pickled(huge))
check('pickle: nested 2,000,000 deep', 'longer than MNIST', pickled(nest))
check('pickle: nested 2,000,000 deep, in a frame', 'longer than MNIST',
      pickled(b'\x80\x04\x95' + struct.pack('<Q', len(nest) - 2) + nest[2:]))
check('pickle: a string used 45 times', 'more than six arrays', pickled(again))
check('pickle: an object array', 'read as a pickle', pickled(objects))
check('pickle: zip bomb', 'longer than MNIST', pickled(long))
check('pickle: another set of arrays', 'should be', pickled(zeros(.5)))
check('pickle: pixels up to 1', 'should be', pickled(zeros(1.)))
check('pickle: cut short', 'read as a pickle', pickled(pickle.dumps(zeros(.5))[:500]))
check('pickle: a web page', 'read as a pickle', pickled(PAGE))
server.shutdown()

MEMORY = '''
import sys, torch
from mnist_mb import data
def peak():
    return 1024*int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])
torch.ones(10).sum()
before = peak()
splits = data.load_mnist(sys.argv[1])
size = sum(t.nbytes for pair in splits for t in pair)
print((peak() - before)/size)
'''
for source in (REAL, REAL/'mnist.pkl.gz'):
    out = subprocess.run([sys.executable, '-c', MEMORY, str(source)], capture_output=True, text=True, check=True)
    ROWS.append(float(out.stdout) <= 2.5)
    print(f'{"ok  " if ROWS[-1] else "FAIL"}           memory to read {source.name:27}  '
          f'{float(out.stdout):.2f} times that of the tensors')

with tempfile.TemporaryDirectory() as tmp, patch.dict(os.environ, MNIST_MB_CACHE=tmp, MNIST_MB_DATA=''):
    (Path(tmp)/'mnist').mkdir()
    for file, content in RAW.items():
        (Path(tmp)/'mnist'/file).write_bytes(content)

    def notes():
        with gzip.open(REAL/'mnist.pkl.gz') as f:
            sets = pickle.load(f, encoding='latin-1')
        return [torch.tensor(a) for pair in sets for a in pair]
    best = {notes: 9e9, load_mnist: 9e9}
    for _ in range(3):
        for way in best:
            start = time.perf_counter()
            way()
            best[way] = min(best[way], time.perf_counter() - start)
    ratio = best[notes]/best[load_mnist]
    ROWS.append(ratio >= 4)
    print(f'{"ok  " if ratio >= 4 else "FAIL"}           a second load, from the cache                '
          f'{ratio:.1f} times faster than unpickling')
print(f'note: {len(ROWS)} checks of faults, memory and speed, {ROWS.count(False)} failed')
sys.exit(not all(ROWS))
