"""The pad: its Python, its JavaScript without a page, and the whole in Chromium."""
import base64
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn, tensor
from torch.testing import assert_close

from mnist_mb.checks import verdict
from mnist_mb.data import CLASSES, get_data
from mnist_mb.playground import (
    as_mnist, center_of_mass, find_ink, pixel_contributions, quantized, sketchpad)
from mnist_mb.training import Model, accuracy, fit

ROOT = Path(__file__).parent.parent
NASTY = ['<img src=x onerror=alert(1)>', '</script><script>alert(2)</script>', 'ナ & "b"']
TRACED, FED = 100, 1000


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
    dot()/255., dot() > 0, dot().numpy(), (dot() > 0).numpy(), dot().double()/255,
    (dot()/255.).requires_grad_(), dot().tolist()])
def test_as_mnist_of_every_kind_of_picture(same):
    got = as_mnist(dot()).reshape(28, 28)
    assert (got > 0).sum() == 20*10 and got.max() == 255/256
    assert_close(as_mnist(same), got.flatten(), rtol=0, atol=1e-6)
    for paper in (255 - dot(), dot().clamp(min=3), dot().clamp(max=200) + 30):
        assert_close(as_mnist(paper), got.flatten(), rtol=0, atol=1e-12)
    faint = torch.where(dot() == 0, dot() + 50, dot())
    faint[0], faint[-1], faint[:, 0], faint[:, -1] = 0, 0, 0, 0
    assert_close(as_mnist(faint, threshold=0.2), got.flatten(), rtol=0, atol=0)
    assert ((center_of_mass(got[None]) - 14).abs() <= 0.5).all()


@pytest.mark.parametrize('bad, why', [
    (torch.zeros(5, 5), 'blank'), (torch.ones(3, 5, 5), 'average the colors'),
    (torch.full((5, 5), 200.), 'values from 200'), (torch.zeros(0, 5), r'shape \(0, 5\)'),
    (torch.full((5, 5), 200), 'blank'), (Image.new('RGBA', (9, 9)), 'blank'),
    (torch.eye(28).roll(1)/9, 'thin'), (__file__, 'no picture in .*py'),
    ('no/such.png', 'no picture in no/such.png: No such file'),
    (ROOT, 'no picture'), (os.devnull, 'no picture'),
    (torch.full((5, 5), float('nan')), 'values from nan'), ((dot() > 0).int(), 'image > 0'),
    (np.ones((5, 5), np.int64), 'image > 0'), (torch.full((5, 5), -1), 'values from -1'),
    (torch.ones(5, 5, dtype=torch.complex64), 'grayscale')])
def test_as_mnist_refuses(bad, why):
    with pytest.raises(ValueError, match=why):
        as_mnist(bad)


@pytest.mark.parametrize('threshold', [10, 1, -0.1, float('nan')])
def test_a_threshold_is_a_share(threshold):
    with pytest.raises(ValueError, match='threshold is .*a share'):
        as_mnist(dot(), threshold=threshold)


def test_as_mnist_thin_line():
    thin = torch.zeros(100, 100)
    thin[:, 50] = 0.5
    assert (as_mnist(thin).reshape(28, 28) > 0).sum(0).max() == 20


def test_as_mnist_takes_a_pil_image():
    image = Image.fromarray(dot().numpy())
    assert_close(as_mnist(image), as_mnist(dot()), rtol=0, atol=0)
    assert_close(as_mnist(image.convert('1')), as_mnist(dot()), rtol=0, atol=0)


@pytest.mark.parametrize('nothing, why', [
    (dot()/255./255, 'blank'), (dot() // 64, 'blank'), (254 + (dot() == 0), 'blank'),
    (torch.eye(1000), 'too faint or too thin: the darkest pixel becomes 0.0')])
def test_as_mnist_never_returns_a_nearly_blank_picture(nothing, why):
    with pytest.raises(ValueError, match=why):
        as_mnist(nothing)


def test_center_of_mass():
    images = torch.zeros(2, 28, 28)
    images[0, 3, 20] = 0.5
    images[1, 4, 0], images[1, 8, 27] = 0.75, 0.25
    want = tensor([[3, 20], [5, 6.75]]).double()
    assert_close(center_of_mass(images), want)
    assert_close(center_of_mass(images.flatten(1)), want)


@pytest.mark.parametrize('turn, first', [(0, 8), (2, 0)])  # quarters; its first row in the picture
def test_as_mnist_keeps_it_inside_where_one_end_is_heavy(turn, first):
    image = torch.zeros(20, 20)
    image[:2], image[2:, 10] = 1., 0.2  # its mass is near the top, and would come to row 14
    picture = as_mnist(image.rot90(turn)).reshape(28, 28)
    assert picture.sum(1).nonzero()[:, 0].tolist() == list(range(first, first + 20))


def test_as_mnist_against_areas_by_hand():
    image = torch.zeros(40, 40)
    image[3:33, 5:9] = 1.  # 30 rows become 20, 4 columns 3: 8/3, so 2.67 rounded
    image[3:33, 7:9] = 0.5  # each new column covers 4/3 of the old ones
    picture = as_mnist(image).reshape(28, 28)
    rows, columns = (picture > 0).sum(0).max(), (picture > 0).sum(1).max()
    assert (rows, columns) == (20, 3)
    got = picture[picture.sum(1) > 0][:, picture.sum(0) > 0]
    top = 255/256
    want = tensor([top, (top*2/3 + 0.5*2/3)/(4/3), 0.5]).expand(20, 3)
    assert_close(got, want, rtol=0, atol=1e-6)
    y, x = center_of_mass(picture[None])[0]
    assert 13.5 <= y <= 14.5 and 13.5 <= x <= 14.5


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


def photo(image):
    "Gray paper with noise, half in the shadow."
    a, g = np.asarray(image)/255, np.random.default_rng(0)
    light = 1 - 0.6*np.add.outer(np.linspace(0, 1, a.shape[0]), np.linspace(0, 1, a.shape[1]))/2
    return jpeg(Image.fromarray(((60 + 120*a)*light + g.normal(0, 6, a.shape)).astype('uint8')))


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
    'held sideways': lambda v: sideways(written(v)), 'photo': lambda v: photo(written(v)),
    '16 bits': lambda v: Image.fromarray(np.asarray(written(v)).astype('uint16')*257),
    'array': lambda v: np.asarray(written(v)), 'floats': lambda v: 1 - v.reshape(28, 28),
    'in a corner': lambda v: ImageOps.expand(written(v, 60, 6), (0, 200, 300, 0), 'white')}


@pytest.mark.parametrize('form', FORMS)
@torch.no_grad()
def test_a_picture_of_any_form_is_read_as_the_digit_is(form, sets, model):
    x, y = (t[:60] for t in sets[2])
    pictures = [FORMS[form](v) for v in x]
    assert {find_ink(p)[1] for p in pictures} == {'inverted' not in form and 'white' not in form}
    logits = model(torch.stack([as_mnist(p) for p in pictures]))
    digits = model(torch.stack([as_mnist(v.reshape(28, 28)) for v in x]))
    assert (logits.argmax(1) == digits.argmax(1)).float().mean() >= 0.85
    assert accuracy(logits, y) >= accuracy(digits, y) - 0.1


def test_pictures_come_from_files_too(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    image = Image.fromarray(255 - dot().numpy())
    image.save(tmp_path/'a.png')
    for path in (tmp_path/'a.png', str(tmp_path/'a.png'), '~/a.png'):
        assert_close(as_mnist(path), as_mnist(image), rtol=0, atol=0)
    large = ImageOps.expand(image.resize((40, 2100)), 300, 'white')
    assert find_ink(large)[0].shape[0] == 2000  # no more is looked at
    (tmp_path/'a.png').write_bytes((tmp_path/'a.png').read_bytes()[:-40])
    with pytest.raises(ValueError, match='no picture in'):
        as_mnist(tmp_path/'a.png')


def test_a_side_may_be_all_ink():
    seven = torch.full((40, 30), 255, dtype=torch.uint8)
    seven[:8], seven[:, 18:24] = 10, 10
    ink, dark = find_ink(seven)
    assert dark and torch.equal(ink > 0, seven < 100)


# Contributions

@pytest.mark.parametrize('target', [None, tensor([2, 0, 1, 1])])
def test_contributions_add_up_and_are_gradient_times_input(target):
    torch.manual_seed(0)
    deep = nn.Sequential(nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 20, bias=False),
                         nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 3))
    x = torch.rand(4, 784, requires_grad=True)
    out = deep(x)
    want = out.gather(1, (out.argmax(1) if target is None else target)[:, None]).squeeze(1)
    pixels, biases = pixel_contributions(deep, x, target)
    slopes, = torch.autograd.grad(want.sum(), x)
    assert_close(pixels, (x*slopes).detach(), rtol=1e-4, atol=1e-6)
    assert_close(pixels.sum(1) + biases, want.detach(), rtol=1e-4, atol=1e-5)
    assert x.grad is None and all(p.grad is None for p in deep.parameters())
    if target is not None:  # zeroing all biases but one shows what the biases add
        w, v, u = deep[0], deep[2], deep[3]
        on, on2 = w(x) > 0, u(v((w(x)).relu())) > 0
        slope = (deep[5].weight[target]*on2) @ u.weight
        bias = deep[5].bias[target] + ((deep[5].weight[target]*on2)*u.bias).sum(1)
        bias = bias + (((slope @ v.weight)*on)*w.bias).sum(1)
        assert_close(biases, bias.detach(), rtol=1e-3, atol=1e-5)


def test_contributions_of_a_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 3, 5), nn.ReLU(),
                        nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(3*12*12, 4))
    x = torch.rand(2, 784)
    with torch.no_grad():
        pixels, biases = pixel_contributions(net, x, [1, 3])
    assert net.training and net[4].training  # as they were, and without dropout meanwhile
    net.eval()
    want = net(x)[[0, 1], [1, 3]]
    assert_close(pixels.sum(1) + biases, want.detach(), rtol=1e-4, atol=1e-5)
    step = torch.zeros(2, 784)  # linear near x, so the slope is that of a small step
    step[:, 300] = 1e-3
    off = (net(x + step) - net(x - step))[[0, 1], [1, 3]]/2e-3
    assert_close(pixels[:, 300], (x[:, 300]*off).detach(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('target', [tensor([0, 1]), tensor([0, 1, 2, 3]), tensor([[0], [1]]),
                                    [0, 0, 0, -1], tensor([0., 1, 1, 1])])
def test_contributions_refuse_a_target(target):
    with pytest.raises((ValueError, IndexError, TypeError), match='target'):
        pixel_contributions(small(), torch.rand(4, 784), target)


def test_contributions_refuse_a_single_image():
    with pytest.raises((ValueError, IndexError, TypeError), match='logits'):
        pixel_contributions(small(), torch.rand(784))


# What a pad takes

def broken():
    bad = Model(784, 5, 3)
    bad.layers[2].bias.data[1] = float('nan')
    return bad


class Twice(Model):
    def forward(self, x):
        return 2*super().forward(x)


@pytest.mark.parametrize('bad, why', [
    (Model(28, 5, 3), 'takes 28 numbers, and the image has 784'),
    (broken(), 'inf or nan in part 1'),
    (nn.Sequential(nn.Linear(784, 5), nn.Linear(4, 3)), 'before makes 5'),
    (nn.Sequential(), '0 logits'), (Model(784, 5, 1), '1 logits'), (Twice(784, 5, 3), 'a Twice'),
    (nn.Sequential(nn.ReLU()), 'a ReLU as part 0'), (nn.Conv2d(1, 1, 3), 'a Conv2d'),
    ('a model', 'a str as part 0'),
    (nn.Sequential(nn.Linear(784, 8), nn.Sigmoid()), 'a Sigmoid as part 1')])
def test_models_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        sketchpad(bad)


def test_nested_models():
    net = nn.Sequential(nn.Sequential(nn.Linear(784, 5)), nn.ReLU(), nn.ReLU(), nn.Linear(5, 2),
                        nn.ReLU())
    assert [layer['relu'] for layer in stored(sketchpad(net))['layers']] == [True, True]
    assert len(stored(sketchpad(nn.Linear(784, 2)))['layers']) == 1


@pytest.mark.parametrize('options, why', [
    ({'classes': ['a', 'b']}, '2 names, and the model has 3'), ({'bits': 32}, 'bits is 32'),
    ({'classes': '012'}, 'classes is text'), ({'examples': torch.zeros(5, 784)}, 'a Tensor'),
    ({'examples': (torch.zeros(5, 784), tensor([0, 1, 2]))}, r'\(5, 784\) and y \(3,\)'),
    ({'examples': (torch.full((2, 784), 300.), tensor([0, 1]))}, 'from 0 to 1'),
    ({'examples': (torch.zeros(2, 784), tensor([0, 9]))}, '0 to 2'),
    ({'examples': (torch.full((2, 784), float('nan')), tensor([0, 1]))}, 'nan'),
    ({'examples': (torch.zeros(10_000, 784), torch.zeros(10_000))}, '10,000 rows')])
def test_options_refused(options, why):
    with pytest.raises(ValueError, match=why):
        sketchpad(small(), **options)


@pytest.mark.parametrize('bits', [8, 16])
def test_the_page_has_the_quantized_weights(bits):
    net = small()
    rounded = quantized(net, bits)
    for layer, want in zip(stored(sketchpad(net, bits=bits))['layers'], (rounded[0], rounded[2])):
        kind = {8: 'b', 16: 'h'}[bits]
        q = tensor([list(memoryview(base64.b64decode(row)).cast(kind)) for row in layer['weight']])
        assert_close(q*tensor(layer['scale'])[:, None], want.weight.detach(), rtol=0, atol=0)
        assert_close(tensor(layer['bias']), want.bias.detach(), rtol=0, atol=0)
    assert [layer['relu'] for layer in stored(sketchpad(net))['layers']] == [True, False]
    largest = net[0].weight.abs().amax(1, keepdim=True)
    off = (rounded[0].weight - net[0].weight).abs()/largest
    assert (off <= 0.501/(2**(bits - 1) - 1)).all()


def test_a_dead_row_and_other_bits():
    net = nn.Linear(784, 3)
    with torch.no_grad():
        net.weight[1] = 0
    assert_close(quantized(net)[0].weight[1], torch.zeros(784))
    with pytest.raises(ValueError, match='bits is 4'):
        quantized(net, 4)


def test_examples_and_names():
    x, y = torch.rand(5, 28, 28).mul(255).floor()/256, [2, 0, 1, 1, 2]
    pad = sketchpad(small(), classes=list('abc'), examples=(x, y))
    assert [e['label'] for e in stored(pad)['examples']] == y and stored(pad)['names'][2] == 'c'
    for e, image in zip(stored(pad)['examples'], x):
        assert list(base64.b64decode(e['image'])) == (256*image).flatten().int().tolist()
    ten = stored(sketchpad(Model(784, 4, 10)))['examples']
    assert [e['label'] for e in ten[:10]] == list(range(10)) and len(ten) == 30
    assert stored(sketchpad(small()))['examples'] == []


def test_a_pad_keeps_the_model_as_it_was():
    net = Model(784, 4, 10)
    pad = sketchpad(net)
    before = pad._repr_html_()
    net.layers[0].weight.data.zero_()
    assert pad._repr_html_() == before != sketchpad(net)._repr_html_()


def test_save(tmp_path):
    file, odd = tmp_path/'pad.html', sketchpad(
        small(), classes=NASTY, bits=8, examples=(torch.eye(784)[:3], [0, 1, 2]))
    odd.save(file, title='<b>&"')
    text = file.read_text(encoding='utf-8')
    assert '<title>&lt;b&gt;&amp;&quot;</title>' in text and '<h1>&lt;b&gt;&amp;&quot;</h1>' in text
    assert text.count('</script>') == 2 and '<img src=x' not in text  # names are no code
    assert 'alt="Examples: &lt;img' in text and stored(odd)['names'] == NASTY
    policy = text.partition('Content-Security-Policy" content="')[2].partition('"')[0].split('; ')
    assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'"} < set(policy)
    with pytest.raises(ValueError, match='exists: choose another name'):
        odd.save(file)
    sketchpad(small()).save(str(file), overwrite=True)
    text = file.read_text(encoding='utf-8')
    assert '<title>Draw a digit</title>' in text and 'unsafe' not in text
    assert not any(bad in text for bad in ('http:', 'https:', 'innerHTML', 'eval('))
    for kind in ('script', 'style'):
        content, = re.findall(rf'<{kind}>(.*?)</{kind}>', text, re.S)
        digest = hashlib.sha256(content.encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in text
    for path, why in [(tmp_path/'no'/'pad.html', 'there is no folder'), (tmp_path, 'is a folder')]:
        with pytest.raises(ValueError, match=why):
            odd.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ['pad.html']
    with pytest.raises(ValueError, match='no regular file'):
        odd.save(os.devnull, overwrite=True)
    (tmp_path/'link.html').symlink_to(file)
    odd.save(tmp_path/'link.html', 'through a link', overwrite=True)
    assert (tmp_path/'link.html').is_symlink() and 'through a link' in file.read_text('utf-8')
    file.chmod(0o444)
    with pytest.raises(ValueError, match='read-only'):
        odd.save(file, overwrite=True)


def test_size():
    net = Model(784, 50, 10)
    assert len(sketchpad(net)._repr_html_()) < 175_000
    assert len(sketchpad(net, bits=8)._repr_html_()) < 125_000


def test_what_stands_there_without_scripts():
    image = torch.zeros(2, 28, 28)
    image[0, :, 3], image[1, 5] = 255/256, 0.5
    pad = sketchpad(small(), classes=list('abc'), examples=(image, [0, 2]))
    data = re.search('base64,([^"]+)"', pad.body)[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('L'))
    ink = 1 - picture/255.  # dark on white
    assert_close(tensor(ink).float(), torch.cat([*image], 1), rtol=0, atol=0.01)
    assert 'alt="Examples: a c"' in pad.body and 'needs JavaScript' in pad.body


def test_the_package_has_the_files_the_page_is_made_of():
    script = sketchpad(small()).script
    assert 'data-lm-suppress-shortcuts="true"' in sketchpad(small()).body  # for JupyterLab
    name, = re.findall('data-code="(.{8})"', sketchpad(small()).body)  # of this version
    assert name in script.replace('data-code', '')
    assert '.verdict {' in script and 'function centered(' in script
    assert 'PAD_CSS' not in script and 'PAD_CODE' not in script


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
    (lambda net, x, a, b: pixel_contributions(net, x[None], [a])[0]
     - pixel_contributions(net, x[None], [b])[0], 'RuntimeError')])
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


def thinned(images):
    "Lines one pixel wide, by the rules of Zhang and Suen (1984), from (n, 28, 28) bool."
    on = nn.functional.pad(images, (1, 1, 1, 1))
    before = None
    while before is None or not torch.equal(on, before):
        before = on
        for step in (0, 1):
            around = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
            p = torch.stack([on.roll((-y, -x), (1, 2)) for y, x in around])
            neighbors, turns = p.sum(0), (~p & p.roll(-1, 0)).sum(0)
            n, e, s, w = p[::2]
            pair = ~(n & e & s) & ~(e & s & w) if step == 0 else ~(n & e & w) & ~(n & s & w)
            on = on & ~(on & (neighbors >= 2) & (neighbors <= 6) & (turns == 1) & pair)
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
    lines = thinned(x[:TRACED].reshape(-1, 28, 28) > 0.4)
    pad.save(tmp/'pad.html')
    other.save(tmp/'other.html', title='<b>')
    sketchpad(model, CLASSES['fashion']).save(tmp/'fashion.html')
    (tmp/'two.html').write_text(page(pad._repr_html_() + other._repr_html_()))
    (tmp/'lab.html').write_text(page('<div id="output"></div>'))
    (tmp/'nb.html').write_text(converted(pad, tmp))
    job = {'images': [text((256*v).int().tolist()) for v in x[:FED]],
           'strokes': [strokes(line) for line in lines], 'html': pad._repr_html_(),
           'names': NASTY, 'folder': str(tmp), 'chromium': chromium}
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
    assert_close(fed, want, rtol=0, atol=1e-3)
    right = accuracy(fed, y[:FED])
    assert right == accuracy(quantized(model)(x[:FED]), y[:FED])
    pixels = tensor([t['pixels'] for t in traced])
    logits = tensor([t['logits'] for t in traced])
    assert len(traced) == TRACED
    assert_close(logits, model(pixels), rtol=0, atol=1e-3)
    speaks, best = tensor([t['speaks'] for t in traced]), tensor([t['best'] for t in traced])
    assert_close(speaks, pixel_contributions(quantized(model), pixels, best)[0], rtol=0, atol=1e-3)
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
