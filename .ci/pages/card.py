"""Draws nbs/card.png, the picture that other sites show with a link to this one: `card.py`."""
from pathlib import Path

import matplotlib.pyplot as plt

from mnist_mb.data import drawn_digits

x, y = drawn_digits()[0]
fig = plt.figure(figsize=(12, 6.3), facecolor='#15191d')
for digit in range(10):
    column, row = digit % 5, digit//5
    ax = fig.add_axes((0.05 + 0.182*column, 0.62 - 0.35*row, 0.172, 0.32))
    ax.imshow(x[y == digit][1].reshape(28, 28), cmap='gray', interpolation='nearest')
    ax.axis('off')
fig.text(0.05, 0.12, 'Minibatch training on MNIST', color='#ffffff', fontsize=40, weight='bold')
fig.text(0.05, 0.045, 'explained in notebooks that run', color='#8ab8f2', fontsize=24)
fig.savefig(Path(__file__).parents[2]/'nbs/card.png', dpi=100, facecolor=fig.get_facecolor())
