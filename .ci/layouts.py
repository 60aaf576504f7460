"""The folder with four IDX files, zipped or not, and mnist.pkl.gz give bit-equal tensors."""
import gzip
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from mnist_mb.data import FILES, load_mnist

given = Path(sys.argv[1])
with tempfile.TemporaryDirectory() as tmp:
    for name in FILES:
        with gzip.open(given/f'{name}.gz') as zipped, open(Path(tmp)/name, 'wb') as plain:
            shutil.copyfileobj(zipped, plain)
    folder, pickled, unzipped = map(load_mnist, (given, given/'mnist.pkl.gz', tmp))
for other in (pickled, unzipped):
    for (x, y), (x2, y2) in zip(folder, other, strict=True):
        assert x.dtype == x2.dtype and y.dtype == y2.dtype
        assert torch.equal(x, x2) and torch.equal(y, y2)
print('note:', ', '.join(f'{len(y):,}' for _, y in folder), 'images')
