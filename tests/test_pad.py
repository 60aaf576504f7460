"""The pad: its Python, its JavaScript without a page, and the whole in Chromium."""
import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import warnings
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from skimage.morphology import skeletonize
from torch import nn, tensor
from torch.testing import assert_close

from mnist_mb.data import CLASSES, get_data
from mnist_mb.exercises import verdict
from mnist_mb.playground import (
    as_mnist, center_of_mass, centered, find_ink, pixel_contributions, sketchpad)
from mnist_mb.training import Model, accuracy, fit

ROOT = Path(__file__).parent.parent
NASTY = ['<img src=x onerror=alert(1)>', '</script><script>alert(2)</script>', 'ナ & "b"']
TRACED, FED = 100, 200


@pytest.fixture(scope='module')
def sets():
    return get_data('mnist' if os.environ.get('MNIST_MB_DATA') else 'drawn')


@pytest.fixture(scope='module')
def model(sets):
    torch.manual_seed(1)
    net = Model(784, 50, 10)
    fit(net, sets[0], progress=False)
    return net


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))


def stored(pad):
    return json.loads(re.search(r'json">(.*?)</script>', pad.body, re.S)[1])


# Pictures

def dot():
    image = torch.zeros(50, 40, dtype=torch.uint8)
    image[3:13, 7:12] = 255
    return image


@pytest.mark.parametrize('same', [
    dot()/255., dot() > 0, dot().numpy(), dot().double()/255, (dot()/255.).requires_grad_(),
    dot().tolist(), dot()[None], dot()[..., None].numpy()])
def test_arrays_with_black_edges_are_taken_as_they_are(same):
    got = as_mnist(dot()).reshape(28, 28)
    assert (got > 0).sum() == 20*10 and got.max() == 255/256 and got.dtype == torch.float32
    assert_close(as_mnist(same), got.flatten(), rtol=0, atol=1e-6)
    assert ((center_of_mass(got[None]) - 14).abs() <= 0.5).all()
    faint = torch.where(dot() == 0, 0, dot() // 8)  # no threshold, no stretching
    assert_close(find_ink(faint)[0], faint.double()/256, rtol=0, atol=0)


@pytest.mark.parametrize('bad, why', [
    (torch.zeros(5, 5), 'blank'), (torch.full((50, 50), 200), 'blank'), (dot() // 64, 'blank'),
    ((dot() > 0).int(), 'blank'), (Image.new('RGBA', (9, 9)), 'blank'),
    (Image.new('L', (1, 1)), 'blank'), (torch.eye(1000), 'too thin'),
    (torch.ones(3, 5, 5), 'average the colors'), (torch.zeros(0, 5), r'shape \(0, 5\)'),
    (torch.full((5, 5), 200.), 'values from 200'), (torch.full((5, 5), 256), 'to 256'),
    (torch.full((5, 5), float('nan')), 'values from nan'), (torch.full((5, 5), -1), 'from -1'),
    (__file__, 'no picture in .*py: .*JPEG'), ('no/such.png', 'no picture in no/.*: .*No such'),
    (ROOT, 'no picture'), (os.devnull, 'no picture'), (b'', 'no picture')])
def test_what_is_no_picture_is_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        as_mnist(bad)


def test_center_of_mass():
    images = torch.zeros(2, 28, 28)
    images[0, 3, 20] = 0.5
    images[1, 4, 0], images[1, 8, 27] = 0.75, 0.25
    want = tensor([[3, 20], [5, 6.75]]).double()
    assert_close(center_of_mass(images), want)
    assert_close(center_of_mass(images.flatten(1)), want)


@pytest.mark.parametrize('turn, first', [(0, 8), (2, 0)])  # quarters; its first row in the picture
def test_centered_keeps_it_inside_where_one_end_is_heavy(turn, first):
    image = torch.zeros(20, 20)
    image[:2], image[2:, 10] = 1., 0.2  # its mass is near the top, and would come to row 14
    picture = centered(image.rot90(turn)).reshape(28, 28)
    assert picture.sum(1).nonzero()[:, 0].tolist() == list(range(first, first + 20))


def test_centered_against_areas_by_hand():
    image = torch.zeros(40, 40)
    image[3:33, 5:9] = 1.  # 30 rows become 20, 4 columns 3: 8/3, so 2.67 rounded
    image[3:33, 7:9] = 0.5  # each new column covers 4/3 of the old ones
    picture = centered(image).reshape(28, 28)
    rows, columns = (picture > 0).sum(0).max(), (picture > 0).sum(1).max()
    assert (rows, columns) == (20, 3)
    assert picture.sum(1).nonzero()[0, 0] == 4  # its middle, 9.5 of 20 rows, comes to 13.5
    got = picture[picture.sum(1) > 0][:, picture.sum(0) > 0]
    want = tensor([1, (2/3 + 0.5*2/3)/(4/3), 0.5]).expand(20, 3)
    assert_close(got, want, rtol=0, atol=1e-6)
    thin = torch.zeros(100, 100)
    thin[:, 50] = 0.5
    assert (centered(thin).reshape(28, 28) > 0).sum().item() == 20


@pytest.mark.mnist
def test_as_mnist_leaves_mnist_as_it_is(mnist):
    x = mnist[2][0]
    centers = center_of_mass(x)
    assert ((centers - 14).abs() <= 0.5001).all()
    same = [torch.equal(as_mnist(v.reshape(28, 28)), v) for v in x[::10]]
    assert sum(same) >= 995  # 9,997 of all 10,000


def written(v, size=120, margin=25):
    "A digit of the sets, dark on a light page, as a PIL image in gray."
    image = Image.fromarray((v.reshape(28, 28)*256).byte().numpy()).resize((size, size), 3)
    return ImageOps.invert(ImageOps.expand(image, margin))


def jpeg(image, quality=60, **options):
    image.save(file := io.BytesIO(), 'JPEG', quality=quality, **options)
    return Image.open(file)


def with_alpha(image, color):
    "Strokes on nothing."
    sheet = Image.new('RGBA', image.size, color)
    sheet.putalpha(ImageOps.invert(image))
    return sheet


def sideways(image):
    "What a camera that was held sideways writes."
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(image.rotate(90, expand=True), exif=exif)


FORMS = {
    'gray': lambda v: written(v), 'inverted': lambda v: ImageOps.invert(written(v)),
    'as in MNIST': lambda v: written(v, 28, 0), 'tiny JPEG': lambda v: jpeg(written(v, 28, 0)),
    'tiny JPEG, inverted': lambda v: jpeg(ImageOps.invert(written(v, 28, 0))),
    'big': lambda v: written(v, 400, 150), 'JPEG': lambda v: jpeg(written(v)),
    'two values': lambda v: written(v).convert('1', dither=0),
    'P': lambda v: written(v).convert('P'),
    'in color': lambda v: ImageOps.colorize(written(v), 'navy', 'ivory'),
    'black on nothing': lambda v: with_alpha(written(v), 'black'),
    'white on nothing': lambda v: with_alpha(written(v), 'white'),
    'held sideways': lambda v: sideways(written(v)),
    '16 bits': lambda v: Image.fromarray(np.asarray(written(v)).astype('uint16')*257),
    'floats, TIFF': lambda v: Image.fromarray(np.asarray(written(v)).astype('float32')),
    'array': lambda v: np.asarray(written(v)), 'floats': lambda v: 1 - v.reshape(28, 28),
    'in a corner': lambda v: ImageOps.expand(written(v, 60, 6), (0, 200, 300, 0), 'white')}


@pytest.mark.parametrize('form', FORMS)
@torch.no_grad()
def test_a_picture_of_any_form_is_read_as_the_digit_is(form, sets, model):
    x, y = (t[:60] for t in sets[2])
    pictures = [FORMS[form](v) for v in x]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert {find_ink(p)[1] for p in pictures} == {
            'inverted' not in form and 'white' not in form}
        logits = model(torch.stack([as_mnist(p) for p in pictures]))
    digits = model(x)
    assert (logits.argmax(1) == digits.argmax(1)).float().mean() >= 0.85
    assert accuracy(logits, y) >= accuracy(digits, y) - 0.1


def test_pictures_come_from_files_too(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    image, file = written(0.9*torch.eye(28), 1000, 800), tmp_path/'a.png'
    image.save(file)
    same = [file, str(file), '~/a.png', file.read_bytes(), io.BytesIO(file.read_bytes())]
    with file.open('rb') as opened:
        for path in (*same, opened):
            assert_close(as_mnist(path), as_mnist(image), rtol=0, atol=0)
    assert max(find_ink(file)[0].shape) == 400  # no more is looked at
    file.write_bytes(file.read_bytes()[:-400])
    with pytest.raises(ValueError, match='no picture in'):
        as_mnist(file)


# What is on the paper besides: (h, w), 1 where it is. The digit is a 7 with a stroke of its own.

def seven():
    ink = np.zeros((100, 100))
    ink[20:26, 30:70], ink[26:80, 60:66], ink[50:55, 68:80] = 1, 1, 1
    return ink


def with_more(*places, ink=1.):
    more = np.zeros((100, 100))
    for place in places:
        more[place] = ink
    return more


EDGE, PARTS, FAINT = 'touches the edge', 'in 2 parts', 'hardly differs'
THERE = {
    'nothing': (with_more(), [PARTS]),
    'specks': (with_more(np.s_[5:8, 5:8], np.s_[90:93, 88:91], np.s_[40:42, 10:13]), [PARTS]),
    'a frame': (with_more(np.s_[8:11, 8:92], np.s_[89:92, 8:92], np.s_[8:92, 8:11],
                          np.s_[8:92, 89:92]), [PARTS]),
    'lines': (with_more(*(np.s_[y:y + 2] for y in range(6, 100, 9)), ink=0.4), [PARTS]),
    'dark lines': (with_more(np.s_[10:14], np.s_[90:94]), [PARTS, EDGE]),
    'a shadow': (with_more(np.s_[:, :24], ink=0.6), [PARTS])}


@pytest.mark.parametrize('thing', THERE)
@pytest.mark.parametrize('dark', [True, False])
def test_what_is_no_digit_is_left_out(thing, dark):
    more, words = THERE[thing]
    ink = 0.8*np.maximum(seven(), more)
    v = 0.95 - ink if dark else 0.05 + ink
    with pytest.warns(UserWarning) as told:
        got, says = find_ink(Image.fromarray((255*v).astype('uint8')))
    assert says == dark and got.shape == (100, 100)
    assert ((got > 0).numpy() == (seven() > 0)).mean() > 0.99
    assert got[seven() > 0].mean() > 0.85 and got.max() <= 255/256
    message, = [str(w.message) for w in told if w.category is not DeprecationWarning]
    assert all((what in message) == (what in words) for what in (EDGE, PARTS, FAINT)), message


@pytest.mark.parametrize('picture, what', [
    (1 - 0.7*seven()[20:], EDGE), (1 - 0.09*(seven() > 0), FAINT), (1 - 0.7*seven(), PARTS)])
def test_what_may_be_misread_is_said_in_one_line(picture, what):
    with pytest.warns(UserWarning, match=what) as told:
        as_mnist(picture)
    assert len([w for w in told if w.category is not DeprecationWarning]) == 1


def test_a_digit_without_doubts_is_read_without_a_word():
    one = with_more(np.s_[20:80, 47:54])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.simplefilter('ignore', DeprecationWarning)  # of libraries
        ink, dark = find_ink(1 - 0.8*one)
        as_mnist(1 - 0.3*one)
        as_mnist(torch.eye(28))  # in MNIST's form: nothing to doubt
    assert dark and torch.equal(ink > 0.5, tensor(one > 0))


# Contributions

@pytest.mark.parametrize('target', [None, tensor([2, 0])])
def test_contributions_are_gradient_times_input_and_add_up(target):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 3, 5), nn.ReLU(),
                        nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(3*12*12, 4))
    x = torch.rand(2, 784, requires_grad=True)
    with torch.no_grad():
        pixels, biases = pixel_contributions(net, x, target)
    assert net.training and net[4].training  # as they were, and without dropout meanwhile
    assert x.grad is None and all(p.grad is None for p in net.parameters())
    out = net.eval()(x)
    rows = [0, 1], out.argmax(1) if target is None else target
    slopes, = torch.autograd.grad(out[rows].sum(), x)
    assert_close(pixels, (x*slopes).detach(), rtol=1e-4, atol=1e-6)
    assert_close(pixels.sum(1) + biases, out[rows].detach(), rtol=1e-4, atol=1e-5)


# What a pad takes

class Twice(Model):
    def forward(self, x):
        return 2*super().forward(x)


@pytest.mark.parametrize('bad, why', [
    (Twice(784, 5, 3), 'the model is a Twice'), (nn.Conv2d(1, 1, 3), 'a Conv2d'),
    (nn.Sequential(nn.Linear(784, 8), nn.Sequential(nn.Sigmoid())), '1.0 is a Sigmoid')])
def test_layers_that_the_pad_cannot_compute_are_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        sketchpad(bad)


def test_layers_that_do_not_fit_get_an_error_too():
    for bad in (Model(28, 5, 3), nn.Sequential(nn.Linear(784, 5), nn.Linear(4, 3))):
        with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
            sketchpad(bad)
    bad = Model(784, 5, 3)
    bad.layers[2].bias.data[1] = float('nan')
    with pytest.raises(ValueError, match='JSON'):
        sketchpad(bad)


def test_the_page_has_the_layers_and_their_very_weights():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Sequential(nn.Linear(784, 5), relu),
                        nn.Dropout(), nn.Linear(5, 4, bias=False), relu, nn.Linear(4, 2))
    layers = stored(sketchpad(net))['layers']
    assert [layer['relu'] for layer in layers] == [True, True, False]
    for layer, part in zip(layers, (net[2][0], net[4], net[6])):
        rows = [np.frombuffer(base64.b64decode(row), '<f4') for row in layer['weight']]
        assert_close(tensor(np.array(rows)), part.weight.detach(), rtol=0, atol=0)
        bias = torch.zeros(len(rows)) if part.bias is None else part.bias.detach()
        assert_close(tensor(layer['bias']), bias, rtol=0, atol=0)
    assert len(stored(sketchpad(nn.Linear(784, 2)))['layers']) == 1


@pytest.mark.parametrize('options, why', [
    ({'classes': ['a', 'b']}, '2 names, and the model 3'),
    ({'examples': (torch.zeros(5, 784), tensor([0, 1, 2]))}, r'zip\(\)')])
def test_options_refused(options, why):
    with pytest.raises(ValueError, match=why):
        sketchpad(small(), **options)


def test_examples_and_names():
    x, y = torch.rand(5, 28, 28).mul(255).floor()/256, [2, 0, 1, 1, 2]
    x[0, 0] = 1.
    pad = sketchpad(small(), classes=list('abc'), examples=(x, y))
    assert [e['label'] for e in stored(pad)['examples']] == y and stored(pad)['names'] == [*'abc']
    for e, image in zip(stored(pad)['examples'], x):
        want = (256*image).clamp(max=255).flatten().int().tolist()
        assert list(base64.b64decode(e['image'])) == want
    data = re.search('base64,([^"]+)"', pad.body)[1]  # where scripts don't run
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert_close(tensor(1 - picture/255.).float(), torch.cat([*x], 1), rtol=0, atol=0.01)
    ten = stored(sketchpad(Model(784, 4, 10)))
    assert [str(e['label']) for e in ten['examples']] == 3*ten['names'] == 3*[*'0123456789']
    assert stored(sketchpad(small()))['examples'] == []
    assert stored(sketchpad(Model(784, 4, 10), CLASSES['fashion']))['examples'] == []


def test_a_pad_keeps_the_model_as_it_was():
    net = Model(784, 4, 10)
    pad = sketchpad(net)
    before = pad._repr_html_()
    net.layers[0].weight.data.zero_()
    assert pad._repr_html_() == before != sketchpad(net)._repr_html_()
    assert repr(pad) == f'Sketchpad(784 to 4 to 10, {len(before):,} bytes)'


def test_save(tmp_path):
    file = tmp_path/'pad.html'
    odd = sketchpad(small(), classes=NASTY, examples=(torch.eye(784)[:3], [0, 1, 2]))
    odd.save(file, title='<b>&"$pad')
    text = file.read_text(encoding='utf-8')
    assert text.count('&lt;b&gt;&amp;&quot;$pad</') == 2 and odd._repr_html_() in text
    assert text.count('</script>') == 2 and '<img src=x' not in text  # names are no code
    assert stored(odd)['names'] == NASTY
    with pytest.raises(ValueError, match='exists: choose another name'):
        odd.save(file)
    sketchpad(small()).save(str(file), overwrite=True)
    text = file.read_text(encoding='utf-8')
    assert '<title>Draw a digit</title>' in text and 'unsafe' not in text
    assert not any(bad in text for bad in ('http:', 'https:', 'innerHTML', 'eval('))
    policy = text.partition('content="default-src')[2].partition('"')[0].split('; ')
    assert {" 'none'", "base-uri 'none'", "form-action 'none'"} < set(policy)
    for kind in ('script', 'style'):
        content, = re.findall(rf'<{kind}>(.*?)</{kind}>', text, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_the_script_is_whole_and_has_a_name_that_changes_with_it():
    pad = sketchpad(small())
    assert 'data-lm-suppress-shortcuts="true"' in pad.body and 'needs JavaScript' in pad.body
    name, = re.findall('data-code="(.{8})"', pad.body)
    assert name in pad.script and '.verdict {' in pad.script
    assert 'PAD_CSS' not in pad.script and 'PAD_CODE' not in pad.script
    assert len(sketchpad(Model(784, 50, 10))._repr_html_()) < 280_000


# The chapter's exercises: what their checks say of wrong answers

def check(name):
    "The check of the chapter's exercise."
    names = {'torch': torch, 'tensor': tensor, 'Model': Model, 'verdict': verdict,
             'center_of_mass': center_of_mass, 'pixel_contributions': pixel_contributions}
    for cell in nbformat.read(ROOT/'nbs/09_playground.ipynb', 4).cells:
        if f'def check_{name}(' in cell.source:
            exec(cell.source, names)
    return names[f'check_{name}']


def hottest(x, T):
    return (x/T).softmax(1).amax(1)


@pytest.mark.parametrize('answer, says', [
    (hottest, 'right:'), (lambda x, T: hottest(x, T).tolist(), 'right:'),
    (lambda x, T: None, 'not solved'), (lambda x, T: hottest(x, 1/T), 'multiplies'),
    (lambda x, T: hottest(x, 1), 'not used'), (lambda x, T: (x/T).softmax(1), 'each row'),
    (lambda x, T: hottest(x, 1)/T, 'divides the prob'), (lambda x, T: 1/0, 'Zero'),
    (lambda x, T: hottest(x.softmax(1), T), 'softmax of'), (lambda x, T: 0.5, 'shape'),
    (lambda x, T: x.argmax(1), 'which class')])
def test_slips_of_confidence(answer, says):
    assert says in check('confidence')(answer)


def slid(f):
    def answer(image):
        y, x = (14 - center_of_mass(image[None])[0]).tolist()
        return image.roll(tuple(f(y, x)), (0, 1))
    return answer


@pytest.mark.parametrize('answer, says', [
    (slid(lambda y, x: (round(y), round(x))), 'right:'), (lambda image: image, 'as it was'),
    (slid(lambda y, x: (-round(y), -round(x))), 'wrong way'),
    (slid(lambda y, x: (round(x), round(y))), 'exchanged'), (slid(lambda y, x: (6, 6)), 'the box'),
    (slid(lambda y, x: (int(y), int(x))), 'too little'), (lambda image: image[99], 'IndexError'),
    (slid(lambda y, x: (0, round(x))), 'only the columns'), (lambda image: image[0], 'shape'),
    (slid(lambda y, x: (round(y), 0)), 'only the rows')])
def test_slips_of_recentered(answer, says):
    assert says in check('recentered')(answer)


def by_weights(net, x, this, that, on=True):
    first, _, last = net.layers
    on = first(x) > 0 if on else 1
    return x*(((last.weight[this] - last.weight[that])*on) @ first.weight)


def by_autograd(net, x, this, that):
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        out = net(x)
        return x*torch.autograd.grad(out[this] - out[that], x)[0]


@pytest.mark.parametrize('answer, says', [
    (lambda *args: by_weights(*args).tolist(), 'right:'), (lambda *args: None, 'not solved'),
    (lambda net, x, a, b: by_weights(net, x, b, a), 'minus that'),
    (lambda net, x, a, b: by_weights(net, x, a, b)/x, 'slope'),
    (lambda *args: by_weights(*args, on=False), 'leave them out'),
    (lambda *args: by_weights(*args).sum(), 'sum over'), (lambda *args: args[1], 'right one has'),
    (lambda net, x, a, b: x*((net.layers[2].weight[a]*(net.layers[0](x) > 0))
                             @ net.layers[0].weight), 'this alone'),
    (by_autograd, 'RuntimeError'),
    (lambda net, x, a, b: pixel_contributions(net, x[None], tensor([a]))[0]
     - pixel_contributions(net, x[None], tensor([b]))[0], 'RuntimeError')])
def test_slips_of_for_rather_than(answer, says):
    assert says in check('for_rather_than')(answer)


# JavaScript

HANG = 1800  # seconds: what only hangs takes so long


@pytest.mark.slow
@pytest.mark.parametrize('script', ['lint', 'unit'])
def test_javascript(js, script):
    run = subprocess.run(['npm', 'run', script], cwd=js, capture_output=True, text=True,
                         timeout=HANG)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]


def strokes(image):
    "Walks over the middle of the lines of an image, (28, 28) bool: one for each connected part."
    line = tensor(skeletonize(np.asarray(image)))
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
        walk = step(*min(ends or left), [])
        walks.append(walk[:-1:2] + walk[-1:])  # a pen is not followed at every pixel
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
        return ''
    return HTMLExporter().from_notebook_node(again)[0]


@pytest.fixture(scope='module')
def seen(js, sets, model, tmp_path_factory):
    "What Chromium computed when `js/browser.mjs` used pads as a reader does."
    names = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip(f'needs a browser, one of {", ".join(names)}')
    tmp, (x, y) = tmp_path_factory.mktemp('pads'), sets[2]
    deep = nn.Sequential(nn.Linear(784, 130), nn.ReLU(), nn.Linear(130, 20, bias=False), nn.ReLU(),
                         nn.Linear(20, 3))
    pad, other = sketchpad(model, examples=(x[:30], y[:30])), sketchpad(deep, classes=NASTY)
    pad.save(tmp/'pad.html')
    other.save(tmp/'other.html', title='<b>')
    sketchpad(model, CLASSES['fashion']).save(tmp/'fashion.html')
    (tmp/'two.html').write_text(page(pad._repr_html_() + other._repr_html_()))
    (tmp/'lab.html').write_text(page('<div id="output"></div>'))
    (tmp/'nb.html').write_text(converted(pad, tmp))
    job = {'images': [text((256*v).int().tolist()) for v in x[:FED]],
           'strokes': [strokes(v > 0.4) for v in x[:TRACED].reshape(-1, 28, 28)],
           'html': pad._repr_html_(), 'names': NASTY, 'folder': str(tmp), 'chromium': chromium}
    (js/'pad.json').write_text(json.dumps(job))
    run = subprocess.run(['node', 'browser.mjs'], cwd=js, capture_output=True, text=True,
                         timeout=HANG)
    assert (js/'seen.json').exists(), run.stdout + run.stderr[-2000:]
    found = json.loads((js/'seen.json').read_text())
    return run, found


@pytest.mark.slow
def test_in_chromium_as_a_reader_uses_it(seen):
    run, _ = seen
    failed = [line for line in run.stdout.splitlines() if line.startswith('FAIL')]
    assert not failed and run.returncode == 0, '\n'.join(failed) or run.stderr[-2000:]
    assert run.stdout.count('ok ') > 35


@pytest.mark.slow
@torch.no_grad()
def test_chromium_computes_what_pytorch_does(seen, sets, model):
    _, found = seen
    x, y = sets[2]
    fed, traced, want = tensor(found['fed']), found['traced'], model(x[:FED])
    assert_close(fed, want, rtol=0, atol=1e-4)
    pixels = tensor([t['pixels'] for t in traced])
    logits = tensor([t['logits'] for t in traced])
    assert len(traced) == TRACED
    assert_close(logits, model(pixels), rtol=0, atol=1e-3)
    speaks, best = tensor([t['speaks'] for t in traced]), tensor([t['best'] for t in traced])
    assert_close(speaks, pixel_contributions(model, pixels, best)[0], rtol=0, atol=1e-3)
    ink = [torch.frombuffer(bytearray(base64.b64decode(t['ink'])), dtype=torch.uint8)
           for t in traced]
    mirror = torch.stack([as_mnist(i.reshape(140, 140)) for i in ink])
    assert_close(mirror, pixels, rtol=0, atol=1e-5)
    # a third pen, thinned and drawn again; moved by four pixels, with and without centering
    read = accuracy(logits, y[:TRACED])
    assert read > (0.85 if sets.name == 'mnist' else 0.7)
    moved = tensor([t['moved'] for t in traced])
    on, without = (accuracy(moved[:, k], y[:TRACED]) for k in (0, 1))
    assert abs(on - read) < 0.05 and without < read - 0.3
