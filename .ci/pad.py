"""The drawing pad in Chromium; `pad.py [FOLDER]`, with MNIST in it, else drawn digits.

Writes pages with pads, lets `pages/pad.mjs` use them as a reader would, and compares what they
computed with PyTorch. A line a check; exits with 1 if one fails.
"""
import base64
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import torch
from torch import nn

from mnist_mb.data import CLASSES, drawn_digits, load_mnist
from mnist_mb.playground import as_mnist, packed, pixel_contributions, sketchpad
from mnist_mb.training import Model, accuracy, fit

sys.path.insert(0, str(Path(__file__).parent))
from pages import browser_tools, chromium  # noqa: E402

NASTY = ['<img src=x onerror=alert(1)>', '</script><script>alert(2)</script>', 'ナ & "b"']
TRACED, FED = 100, 1000


def thinned(images):
    "Lines one pixel wide, by the rules of Zhang and Suen (1984), from (n, 28, 28) bool."
    on = nn.functional.pad(images, (1, 1, 1, 1))
    before = None
    while before is None or not torch.equal(on, before):
        before = on
        for step in (0, 1):
            around = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
            p = torch.stack([on.roll((-y, -x), (1, 2)) for y, x in around])
            neighbours, turns = p.sum(0), (~p & p.roll(-1, 0)).sum(0)
            n, e, s, w = p[::2]
            pair = ~(n & e & s) & ~(e & s & w) if step == 0 else ~(n & e & w) & ~(n & s & w)
            on = on & ~(on & (neighbours >= 2) & (neighbours <= 6) & (turns == 1) & pair)
    return on[:, 1:-1, 1:-1]


def strokes(line):
    "Walks over all pixels of a thin line, (28, 28) bool: one stroke for each connected part."
    left, walks = set(map(tuple, line.nonzero().tolist())), []

    def step(y, x, walk):
        left.discard((y, x))
        walk.append(((x + 0.5)/28, (y + 0.5)/28))
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, -1), (-1, 1)):
            if (y + dy, x + dx) in left:
                step(y + dy, x + dx, walk)
                walk.append(((x + 0.5)/28, (y + 0.5)/28))
        return walk
    while left:
        around = {(y, x): line[max(0, y-1):y+2, max(0, x-1):x+2].sum() for y, x in left}
        ends = [place for place, n in around.items() if n <= 2]
        walks.append(step(*min(ends or left), []))
    return walks


def text(values):
    return base64.b64encode(bytes(values)).decode()


def page(body):
    "A page in the manner of the site: its theme is a class of the body."
    style = 'body.quarto-dark { background: #15191d; color: #dde2e8 } body { color: #1f2429 }'
    return (f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>pads</title>'
            f'<link rel="icon" href="data:,"><style>{style}</style><body class="quarto-light">'
            f'<main><h1>Pads</h1>{body}</main></body></html>')


def converted(pad, folder):
    "A notebook with a pad, written, read and converted; '' where there is no nbconvert."
    out = nbformat.v4.new_output('display_data', {'text/html': pad._repr_html_()})
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('pad', outputs=[out])])
    nbformat.write(nb, folder/'pad.ipynb')
    again = nbformat.read(folder/'pad.ipynb', 4)
    try:
        from nbconvert import HTMLExporter
    except ImportError:
        print('note: no nbconvert here, so no notebook with a pad is converted')
        return ''
    return HTMLExporter().from_notebook_node(again)[0]


def main():
    if sys.argv[1:] and Path(sys.argv[1]).is_dir():
        sets = load_mnist(sys.argv[1])
    else:
        sets = drawn_digits()
        print('note: drawn digits, not MNIST')
    x, y = sets[2]
    least = 0.85 if sets.name == 'mnist' else 0.7  # a third pen, thinned and drawn again
    torch.manual_seed(1)
    model = Model(784, 50, 10)
    fit(model, sets[0], progress='off')
    deep = nn.Sequential(nn.Linear(784, 130), nn.ReLU(), nn.Linear(130, 20, bias=False), nn.ReLU(),
                         nn.Linear(20, 3))
    pad, other = sketchpad(model, examples=(x[:30], y[:30])), sketchpad(deep, classes=NASTY)
    lines = thinned(x[:TRACED].reshape(-1, 28, 28) > 0.4)
    job = {'images': [text((256*v).int().tolist()) for v in x[:FED]],
           'strokes': [strokes(line) for line in lines]}
    with tempfile.TemporaryDirectory() as name:
        tmp = Path(name)
        env = browser_tools(tmp)
        if env is None:
            return
        pad.save(tmp/'pad.html')
        other.save(tmp/'other.html', title='<b>')
        sketchpad(model, CLASSES['fashion']).save(tmp/'fashion.html')
        (tmp/'two.html').write_text(page(pad._repr_html_() + other._repr_html_()))
        (tmp/'lab.html').write_text(page('<div id="output"></div>'))
        (tmp/'nb.html').write_text(converted(pad, tmp))
        job |= {'html': pad._repr_html_(), 'names': NASTY, 'folder': name,
                'chromium': chromium()}
        (env/'pad.json').write_text(json.dumps(job))
        ran = subprocess.run(['node', 'pad.mjs'], cwd=env, timeout=300).returncode == 0
        seen = json.loads((env/'seen.json').read_text()) if (env/'seen.json').exists() else {}
    results = [ran] + (compare(model, x, y, seen, pad, least) if seen else [False])
    sys.exit(not all(results))


def say(ok, words):
    print('ok   ' if ok else 'FAIL ', words)
    return ok


@torch.no_grad()
def compare(model, x, y, seen, pad, least):
    "What the page computed, against PyTorch."
    fed, traced = torch.tensor(seen['fed']), seen['traced']
    right, want = accuracy(fed, y[:FED]).item(), model(x[:FED])
    ours = accuracy(want, y[:FED]).item()
    rounded = accuracy(packed(model)(x[:FED]), y[:FED]).item()
    off = (fed - want).abs().max().item()
    pixels = torch.tensor([t['pixels'] for t in traced])
    logits = torch.tensor([t['logits'] for t in traced])
    read = accuracy(logits, y[:len(traced)]).item()
    gap = (logits - model(pixels)).abs().max().item()
    speaks, best = torch.tensor([t['speaks'] for t in traced]), [t['best'] for t in traced]
    wrong = (speaks - pixel_contributions(packed(model), pixels, best)[0]).abs().max().item()
    moved = torch.tensor([t['moved'] for t in traced])
    on, without = (accuracy(moved[:, k], y[:len(traced)]).item() for k in (0, 1))
    ink = [torch.frombuffer(bytearray(base64.b64decode(t['ink'])), dtype=torch.uint8)
           for t in traced]
    mirror = torch.stack([as_mnist(i.reshape(140, 140)) for i in ink])
    shape = (mirror - pixels).abs().max().item()
    return [
        say(off < 1e-3, f'{FED} images fed in: logits within {off:.5f} of PyTorch'),
        say(right == rounded and abs(right - ours) <= 0.002,
            f'{FED} images fed in: accuracy {right:.4f}, PyTorch {ours:.4f}, packed {rounded:.4f}'),
        say(len(traced) >= 100 and gap < 1e-3,
            f'{len(traced)} digits traced with the pointer: logits within {gap:.5f} of PyTorch'),
        say(read > least, f'{len(traced)} digits traced with the pointer: {read:.2f} read right'),
        say(abs(on - read) < 0.05 and without < read - 0.3,
            f'moved by four pixels: {on:.2f} read right, {without:.2f} with the switch off'),
        say(shape < 1e-5, f'{len(traced)} drawings: pixels within {shape:.1e} of as_mnist'),
        say(wrong < 1e-3, f'{len(traced)} drawings: pixels for and against within {wrong:.5f}'),
        say(len(pad._repr_html_()) < 150_000, f'the course\'s pad: {pad!r}')]


if __name__ == '__main__':
    main()
