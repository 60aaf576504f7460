"""The figures that move: digits, the network against PyTorch, HTML and pictures, in Chromium."""
import base64
import io
import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from PIL import Image
from torch.testing import assert_close

from mnist_mb.drawing import STROKES, blueprint, scribble
from mnist_mb.live import (
    MISTAKES, draw_and_train, live_digits, loss_figure, slice_figure, softmax_figure,
    training_room)
from mnist_mb.nll import cross_entropy
from mnist_mb.playground import as_mnist
from mnist_mb.softmax import softmax
from mnist_mb.training import Model, evaluate, fit

ROOT = Path(__file__).parent.parent


def page_says(*job):
    "What the JavaScript of a room answers, without a page; numbers come as text."
    if shutil.which('node') is None:
        pytest.skip('needs node')
    run = subprocess.run(['node', ROOT/'tests/js/room.mjs'], input=json.dumps(job),
                         capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def numbers(text):
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64)


def new_model(dtype=torch.float64):
    torch.manual_seed(1)
    return Model(784, 50, 10).to(dtype)


# The digits

@pytest.mark.mnist
def test_the_digits_are_the_first_of_mnist_with_four_levels_of_gray(mnist):
    for (x, y), (x_whole, y_whole), n in zip(live_digits(), mnist, (4000, 1000)):
        assert x.shape == (n, 784) and x.dtype == torch.float32 and y.dtype == torch.int64
        assert y.equal(y_whole[:n]) and (x - x_whole[:n]).abs().max() <= 43/256
        assert_close(x, (x_whole[:n]*256/85).round()*85/256, rtol=0, atol=0)


def test_page_and_python_unpack_the_same():
    digits, = page_says({'ask': 'digits'})
    (x, y), (x_new, y_new) = live_digits()
    assert_close(numbers(digits['levels'])*85/256, torch.cat([x, x_new]).flatten().double())
    assert_close(numbers(digits['labels']), torch.cat([y, y_new]).double())


def test_the_authors_of_the_digits_are_named_wherever_they_are():
    notice = (ROOT/'mnist_mb/static/digits.NOTICE').read_text()
    for text in (notice, training_room()._repr_html_()):
        for name in ('Yann LeCun', 'Corinna Cortes', 'Christopher J.C. Burges', 'CC BY-SA 3.0'):
            assert name in text


# The network of the page against PyTorch

def test_weights_and_order_are_those_of_a_seed():
    model, other, order = page_says({'ask': 'model', 'seed': 1}, {'ask': 'model', 'seed': 7},
                                    {'ask': 'order', 'n': 4000, 'seed': 0})
    for seed, texts in ((1, model), (7, other)):
        torch.manual_seed(seed)
        for p, text in zip(Model(784, 50, 10).parameters(), texts):
            assert numbers(text).equal(p.detach().double().flatten())
    generator = torch.Generator().manual_seed(0)
    assert numbers(order).long().equal(torch.randperm(4000, generator=generator))


def by_autograd(rate, rows, mistake, steps, inFileOrder=False):
    "The room's loop by PyTorch: losses before each step, the model, new images as it sees them."
    (x, y), (x_new, y_new) = live_digits()
    scale = 256 if mistake == 'pixels to 255' else 1
    x, x_new = x.double()*scale, x_new.double()*scale
    y = y.roll(1) if mistake == 'labels one row late' else y
    by_label, generator = y.argsort(stable=True), torch.Generator().manual_seed(0)
    model, losses, order = new_model(), [], []
    if mistake == 'no ReLU':
        model.layers[1] = torch.nn.Identity()
    for _ in range(steps):
        if not order:
            whole = torch.randperm(4000, generator=generator)
            whole = by_label if mistake == 'sorted by label' else whole
            order = [*(torch.arange(4000) if inFileOrder else whole).split(rows)]
        batch = order.pop(0)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= p.grad*rate
                if mistake != 'gradients not cleared':
                    p.grad.zero_()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), model, (x_new, y_new)


CASES = [  # what is chosen, and how far apart losses and parameters may be after 100 steps
    ({}, 1e-5), ({'rate': 0.1, 'rows': 10}, 1e-5), ({'rate': 0.1, 'rows': 1}, 1e-5),
    ({'rows': 250}, 1e-5), ({'rate': 2}, 1e-5), ({'inFileOrder': True, 'steps': 80}, 1e-5), *(
        ({'mistake': mistake}, 1e-4 if mistake in ('gradients not cleared', 'pixels to 255')
         else 1e-5) for mistake in MISTAKES[1:])]


@pytest.mark.parametrize('choice, most', CASES, ids=lambda v: str(v) if isinstance(v, dict) else '')
def test_a_hundred_steps_of_a_room_are_those_of_pytorch(choice, most):
    choice = {'rate': 0.5, 'rows': 50, 'mistake': 'none', 'steps': 100} | choice
    got, = page_says({'ask': 'trained', **choice})
    losses, model, (x, y) = by_autograd(**choice)
    assert (numbers(got['losses']) - losses).abs().max() <= most
    for p, text in zip(model.parameters(), got['model']):
        assert (numbers(text) - p.detach().flatten()).abs().max() <= most
    loss, right = evaluate(model, (x, y))
    hidden = model.layers[:2](x)
    assert abs(got['loss'] - loss) <= most*10 and got['dead'] == (hidden == 0).all(0).sum()
    assert got['right'] == round(1000*right)


@pytest.mark.parametrize('mistake', ['none', 'no ReLU', 'pixels to 255'])
def test_gradients_of_a_minibatch_are_those_of_autograd(mistake):
    got, = page_says({'ask': 'gradients', 'rate': 0.5, 'rows': 50, 'mistake': mistake})
    (x, y), _ = live_digits()
    rows = torch.randperm(4000, generator=torch.Generator().manual_seed(0))[:50]
    model = new_model()
    if mistake == 'no ReLU':
        model.layers[1] = torch.nn.Identity()
    scale = 256 if mistake == 'pixels to 255' else 1
    F.cross_entropy(model(scale*x[rows].double()), y[rows]).backward()
    for p, text in zip(model.parameters(), got):
        assert_close(numbers(text), p.grad.flatten(), rtol=0, atol=1e-9)


def test_one_line_of_python_ends_where_the_room_does():
    got, = page_says({'ask': 'trained', 'rate': 0.5, 'rows': 50, 'mistake': 'none', 'steps': 240})
    history = fit(new_model(torch.float32), *live_digits(), progress=False)
    assert abs(history['valid_loss'][3] - got['loss']) < 5e-4
    assert abs(1000*history['valid_accuracy'][3] - got['right']) < 2.5
    assert abs(got['loss'] - 0.3303) < 1e-3 and abs(got['right'] - 910) < 5


def strokes_of(n, seed=5):
    "Digits as a pen draws them, lists of points on a pad of width 1; their classes."
    generator, drawn = torch.Generator().manual_seed(seed), []
    for i in range(n):
        ways = STROKES[i % 10]
        way = torch.multinomial(torch.tensor([*ways.values()]).float(), 1, generator=generator)
        control, weights, ink = blueprint([*ways][way])
        points = 0.5 + 0.3*scribble(control[None], weights[None], generator)[0]
        cuts = [0, *(1 + (ink == 0).nonzero()[:, 0]).tolist(), len(points)]
        drawn.append([points[a:b].tolist() for a, b in zip(cuts, cuts[1:]) if b - a > 1])
    return drawn, torch.arange(n) % 10


def picture(strokes, pen=1.15, size=200):
    "The same drawing as a picture, with a pen that is as wide when 20 pixels are left of it."
    points = torch.tensor([p for stroke in strokes for p in stroke])
    pen *= (points.amax(0) - points.amin(0)).max()/(20 - 2*pen)
    where = torch.stack(torch.meshgrid(*[(torch.arange(size) + 0.5)/size]*2, indexing='xy'), -1)
    image = torch.zeros(size, size)
    for stroke in strokes:
        for a, b in zip(torch.tensor(stroke), torch.tensor(stroke)[1:]):
            along = ((where - a) @ (b - a)/(b - a).square().sum().clamp(min=1e-12)).clamp(0, 1)
            far = (where - a - along[..., None]*(b - a)).norm(dim=-1)
            image = torch.maximum(image, (far < pen).float())
    return image


def test_drawings_are_read_as_the_text_promises():
    "About two of three after five seconds, five of six at the end; and as a picture is read."
    drawn, y = strokes_of(300)
    got, = page_says({'ask': 'drawings', 'strokes': drawn, 'steps': [0, *range(16, 25), 240]})
    read = [(torch.tensor(guesses) == y).float().mean().item() for guesses in got['guesses']]
    assert read[0] < 0.2 and sum(read[1:-1])/9 > 0.63 and read[-1] > 5/6
    model = new_model(torch.float32)
    fit(model, live_digits()[0], progress=False)
    images = torch.stack([as_mnist(picture(strokes)) for strokes in drawn[:40]])
    assert (model(images).argmax(1) == torch.tensor(got['guesses'][-1][:40])).sum() >= 36
    ours = torch.stack([numbers(text) for text in got['images'][:40]])
    assert_close(ours.sum(1), images.double().sum(1), rtol=0.15, atol=0)


# Chapters 01 and 02

@pytest.mark.parametrize('plus', [0, 100])
@pytest.mark.parametrize('temperature', [0.1, 1, 10])
def test_shares_are_those_of_softmax_in_float32(plus, temperature):
    scores = [2.6, 0.59, -2.07, 4.9]
    job = {'ask': 'shares', 'scores': scores, 'temperature': temperature, 'plus': plus}
    plain, shifted = page_says(job | {'shift': False}, job | {'shift': True})
    x = (torch.tensor(scores) + plus)/temperature
    exps = x.exp()
    assert_close(numbers(plain[1]).float(), exps, rtol=2e-6, atol=0)
    assert_close(numbers(plain[3]).float(), exps/exps.sum(), rtol=2e-6, atol=1e-12, equal_nan=True)
    assert_close(numbers(shifted[3]).float(), softmax(x), rtol=2e-6, atol=1e-12)
    assert numbers(plain[3]).isnan().any() == (x.max() > 88.72)


@pytest.mark.parametrize('p', [0.001, 0.1, 0.5, 0.999])
def test_the_gradient_is_that_of_cross_entropy(p):
    got, = page_says({'ask': 'gradient', 'p': p})
    shares = torch.full((10,), (1 - p)/9, dtype=torch.float64)
    shares[3] = p
    logits = shares.log()[None].requires_grad_()
    cross_entropy(logits, torch.tensor([3])).backward()
    assert_close(numbers(got), logits.grad[0], rtol=0, atol=1e-12)


# What a cell shows

def figures():
    table = pd.Series({t: 1 + (t - 0.5)**2 for t in np.linspace(-1, 2, 31).tolist()})
    return {'room': training_room(rate=2), 'home': draw_and_train(), 'loss': loss_figure(),
            'softmax': softmax_figure(dog=2.6, plane=0.59, **{'<b>': -2.07}),
            'slice': slice_figure(table)}


@pytest.fixture(scope='module')
def made():
    return figures()


@pytest.mark.parametrize('name', ['room', 'home', 'loss', 'softmax', 'slice'])
def test_a_figure_is_html_and_a_picture(made, name):
    data, metadata = made[name]._repr_mimebundle_()
    image = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
    assert image.width == 2*metadata['image/png']['width'] == 1400
    assert len(data['image/png']) < 300_000 and data['image/png'] in data['text/html']
    assert data['text/html'].count('class="mnist-mb-digits"') == (name in ('room', 'home'))
    assert data['text/plain'] == repr(made[name])
    assert re.search('alt="[A-Z].*[.]"', data['text/html'])
    config = re.search('json">(.*?)</script>', data['text/html'])[1]
    assert '<' not in config and json.loads(config) == made[name].config


@pytest.mark.parametrize('mistake', MISTAKES[1:])
def test_the_picture_shows_the_mistake(made, mistake):
    assert training_room(mistake=mistake).png != made['room'].png


def test_the_choices_of_a_room():
    room = training_room(rate=0.3, rows=20, show=('rate',))
    assert room.config == {'figure': 'room', 'home': False, 'rate': 0.3, 'rows': 20,
                           'mistake': 'none', 'show': ['rate']}
    before = torch.get_rng_state()
    training_room()
    assert before.equal(torch.get_rng_state())


def test_a_notebook_has_the_digits_once():
    "In the output of the cell that showed them first, also when that cell runs again."
    cells = ['from mnist_mb.live import training_room, draw_and_train', 'training_room()',
             'draw_and_train()', 'training_room(rate=2)']
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(src) for src in cells])
    client = NotebookClient(nb, timeout=600, kernel_name='python3')

    def holders():
        shown = [cell.outputs[0].data['text/html'] for cell in nb.cells[1:]]
        return ['class="mnist-mb-digits"' in html for html in shown]
    with client.setup_kernel():
        for i, cell in enumerate(nb.cells):
            client.execute_cell(cell, i)
        assert holders() == [True, False, False]
        for i in (3, 1):
            client.execute_cell(nb.cells[i], i)
        assert holders() == [True, False, False]


def test_readme_gets_pictures_and_no_digits():
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    assert len(readme.encode()) < 30_000
    assert 'mnist-mb-live' not in readme and 'base64' not in readme


# In Chromium

def page(body):
    "A page in the manner of the site: its theme is a class of the body."
    style = ('body { color: #1f2429; max-width: 720px; margin: 0 auto; padding: 16px } '
             'body.quarto-dark { background: #15191d; color: #dde2e8 } @media screen and '
             '(prefers-color-scheme: dark) { body { background: #15191d; color: #dde2e8 } }')
    return (f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>figures</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><style>{style}</style><body>'
            f'<main><h1>Figures</h1>{body}<p style="margin-top: 1500px">End</p></main></body>'
            '</html>')


def without_digits(html):
    return re.sub(r'<script type="text/plain".*?</script>', '', html, flags=re.S)


def converted(figure):
    "A notebook with a figure, written, read and converted; '' where there is no nbconvert."
    try:
        from nbconvert import HTMLExporter
    except ImportError:
        return ''
    data, metadata = figure._repr_mimebundle_()
    out = nbformat.v4.new_output('display_data', data, metadata=metadata)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('figure', outputs=[out])])
    return HTMLExporter().from_notebook_node(nbformat.reads(nbformat.writes(nb), 4))[0]


@pytest.mark.slow
def test_in_chromium_as_a_reader_uses_them(js, chromium, made, tmp_path):
    htmls = {name: figure._repr_html_() for name, figure in made.items()}
    room = training_room()
    policy = "default-src 'none'; script-src 'unsafe-inline'; img-src data:"
    inside = (f'<!DOCTYPE html><meta http-equiv="Content-Security-Policy" content="{policy}">'
              f'<body>{room._repr_html_()}</body>')
    pages = {
        'room': page(room._repr_html_()),
        'wild': page(room._repr_html_().replace('"rate": 0.5', '"rate": 1e308')),
        'home': page(htmls['home']), 'empty': page('<div id="output"></div>'),
        'small': page(htmls['softmax'] + htmls['loss'] + htmls['slice']),
        'several': page(room._repr_html_() + without_digits(room._repr_html_())
                        + without_digits(htmls['home'])),
        'frame': page('<iframe title="room" width="700" height="900" sandbox="allow-scripts" '
                      f'srcdoc="{escape(inside)}"></iframe>'),
        'nb': converted(room)}
    for name, text in pages.items():
        (tmp_path/f'{name}.html').write_text(text, encoding='utf-8')
    job = {'folder': str(tmp_path), 'chromium': chromium, 'with': room._repr_html_(),
           'without': without_digits(room._repr_html_())}
    (js/'live.json').write_text(json.dumps(job))
    run = subprocess.run(['node', 'live.mjs'], cwd=js, capture_output=True, text=True, timeout=1800)
    failed = [line for line in run.stdout.splitlines() if line.startswith('FAIL')]
    assert not failed and run.returncode == 0, '\n'.join(failed) or run.stderr[-2000:]
    assert run.stdout.count('ok ') > 45
