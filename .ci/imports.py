"""Importing the package draws nothing, downloads nothing, changes nothing, and costs little."""
import os
import subprocess
import sys
import tempfile
import time

QUIET = '''
import random, sys, torch, numpy as np
before = (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()),
          torch.get_num_threads(), torch.get_default_dtype(), repr(torch.tensor(1/3)))
import socket
def refuse(*args, **kwargs):
    raise AssertionError('an import opened a connection')
socket.socket.connect = refuse
import mnist_mb.data, mnist_mb.softmax, mnist_mb.nll, mnist_mb.training, mnist_mb.evaluation
import mnist_mb.playground, mnist_mb.scaling
after = (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()),
         torch.get_num_threads(), torch.get_default_dtype(), repr(torch.tensor(1/3)))
assert before == after, 'an import changed global state'
late = {'matplotlib', 'pandas', 'requests', 'fastprogress'} & set(sys.modules)
assert not late, f'imported too early: {late}'
'''


def seconds(module):
    "How long a new process takes to import `module`."
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', f'import {module}'], check=True)
    return time.perf_counter() - start


def main():
    with tempfile.TemporaryDirectory() as tmp:
        env = os.environ | {'MNIST_MB_CACHE': f'{tmp}/cache'}
        subprocess.run([sys.executable, '-c', QUIET], check=True, env=env)
        assert not os.listdir(tmp), 'an import wrote a file'
    best = {'torch': float('inf'), 'mnist_mb.training': float('inf')}
    for _ in range(9):
        for module in best:
            best[module] = min(best[module], seconds(module))
    ratio = best['mnist_mb.training']/best['torch']
    print(f'note: import mnist_mb.training takes {ratio:.2f} times import torch')
    assert ratio <= 1.15, 'more than 1.15 times'


if __name__ == '__main__':
    main()
