"""How fast and how frugal training is: ratios of ways that take turns, and memory beyond the data.

An epoch of 50,000 images, 784-50-10, minibatches of 50, one thread. The limits leave room for a
machine that others use; what was measured is printed.
"""
import os
import subprocess
import sys

import torch

from mnist_mb.scaling import benchmark

PROGRAM = '''
import resource, sys, torch
from mnist_mb.scaling import closed_form_epoch
from mnist_mb.training import Model, fit, train_epoch

unit = 2**20 if sys.platform == 'darwin' else 2**10
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/unit

torch.set_num_threads(1)
x, y = torch.rand(50_000, 784), torch.randint(10, (50_000,))
how = dict(epochs=1, progress='off', epoch_func=globals()[sys.argv[1]])
fit(Model(784, 50, 10), (x[:100], y[:100]), **how)  # loads what is loaded late
start, taken = peak(), []
while peak() < start + 1:  # use up what is free, so that the peak shows all that comes
    taken.append(torch.ones(1000))
before = peak()
fit(Model(784, 50, 10), (x, y), **how)
print(peak() - before)
'''


def megabytes(epoch_func):
    run = subprocess.run([sys.executable, '-c', PROGRAM, epoch_func], text=True, check=True,
                         stdout=subprocess.PIPE, env=os.environ | {'OMP_NUM_THREADS': '1'})
    return float(run.stdout)


def main():
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(50_000, 784, generator=g), torch.randint(10, (50_000,), generator=g)
    ratio = benchmark((x, y), (x[:100], y[:100]), lr=1e-3, rounds=7).ratio
    print(ratio.round(2).to_string())
    found = [
        ('an epoch without autograd / its two products', ratio['without autograd'], 1.35),
        ('the same, shuffled', ratio['without autograd, shuffled'], 1.45),
        ('fit, which shuffles / the bare loop', ratio['fit, shuffled']/ratio['bare loop'], 1.1),
        ('MB of fit beyond the data', megabytes('train_epoch'), 50),
        ('MB without autograd', megabytes('closed_form_epoch'), 50),
    ]
    for name, value, limit in found:
        print(f'{"ok  " if value < limit else "FAIL"}  {name}: {value:.2f}, below {limit}')
    if any(value >= limit for _, value, limit in found):
        sys.exit(1)


if __name__ == '__main__':
    main()
