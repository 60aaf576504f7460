"""The digits that the computer draws: shapes, laws, and the same from the same seed."""
from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

from mnist_mb.drawing import STROKES, blueprint, curve_weights, draw, place, render, scribble


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope='module')
def drawn():
    return draw(2000, seeded())


@pytest.mark.parametrize('k', [2, 3, 5, 11])
def test_curve_weights(k):
    w = curve_weights(k, 10*(k - 1) + 1)
    assert w.shape == (10*(k - 1) + 1, k)
    assert_close(w.sum(1), torch.ones(len(w)))
    assert_close(w[::10], torch.eye(k), atol=1e-6, rtol=0)  # through its points


def test_a_curve_is_smooth_and_local():
    "Its direction at a point is that from the point before to the one after."
    w = curve_weights(5, 4001)
    slope = (w[2001] - w[1999])/2*1000
    assert_close(slope, torch.tensor([0, -.5, 0, .5, 0]), atol=1e-2, rtol=0)
    assert (w[:1000, 3:] == 0).all()  # between the first two points, only three count


def ends(text):
    return [[torch.tensor([int(c)/4.5 - 1 for c in xy]) for xy in (s.split()[0], s.split()[-1])]
            for s in text.split('/')]


@pytest.mark.parametrize('text', [s for ways in STROKES.values() for s in ways])
def test_blueprint(text):
    control, weights, ink = blueprint(text)
    assert (control.shape, weights.shape, ink.shape) == ((16, 2), (64, 16), (63,))
    path, strokes = weights @ control, ends(text)
    sizes = [len(s.split()) - 1 for s in text.split('/')]
    rows = sum(64*n//sum(sizes) for n in sizes)  # the last row fills up to 64
    up = [u for u in (ink == 0).nonzero()[:, 0].tolist() if u < rows - 1]
    assert len(up) == len(strokes) - 1
    begins, stops = [0, *[u + 1 for u in up]], [*up, -1]
    for (first, last), a, b in zip(strokes, begins, stops, strict=True):
        assert_close(path[a], first, atol=1e-6, rtol=0)
        assert_close(path[b], last, atol=1e-6, rtol=0)


def test_scribble_wobbles_and_turns():
    level = torch.stack([torch.linspace(-1, 1, 8), torch.zeros(8)], -1).expand(2000, 8, 2)
    moved = scribble(level, torch.eye(8).expand(2000, 8, 8), seeded())
    assert moved.shape == (2000, 8, 2)
    assert moved.diff(n=3, dim=1).abs().mean() > 0.2  # more than a parabola bends
    assert (moved[:, -1] - moved[:, 0])[:, 1].std() > 0.21  # the ends differ in height


def test_place():
    turn = torch.linspace(0, 6.283185, 64)
    circle = torch.stack([5 + 3*turn.cos(), 7 + 3*turn.sin()], -1).expand(2, 64, 2)
    ink, width = torch.ones(2, 63), torch.tensor([2., 5.])
    ink[:, 30] = 0
    middle, length = place(circle, ink, width)
    assert (length[:, 30] == 0).all() and (length[:, :30] > 0).all()
    mass = (middle*length[..., None]).sum(1)/length.sum(1, keepdim=True)
    assert_close(mass, torch.full((2, 2), 14.), atol=1e-4, rtol=0)
    reach = (middle.amax(1) - middle.amin(1)).amax(1)
    assert_close(reach, 20 - width, atol=0.1, rtol=0)
    assert_close(length.sum(1), 3.14159*(20 - width)*62/63, atol=0.1, rtol=0)


@pytest.mark.parametrize('soft', [1., 3.])
def test_render(soft):
    "One horizontal stroke through the middle, three pixels wide."
    xs = torch.arange(6, 22.1, 0.25)
    stroke = torch.stack([xs, torch.full_like(xs, 14)], -1)[None]
    length = torch.full((1, len(xs)), 0.25)
    image = render(stroke, length, torch.tensor([3.]), torch.tensor([soft]))
    assert (image.shape, image.dtype) == ((1, 28, 28), torch.uint8)
    profile = image[0, :, 14].int()
    assert_close(profile.sum()/255., torch.tensor(3.), atol=0.3, rtol=0)
    assert torch.equal(profile[9:20], profile[9:20].flip(0))
    assert profile[14] == 255 and profile[[11, 17]].max() <= (0 if soft == 1 else 1)
    if soft == 3:
        assert (profile[11:18] - torch.tensor([0, 85, 170, 255, 170, 85, 0])).abs().max() <= 1


def test_draw_looks_like_mnist(drawn):
    images, digits = drawn
    assert (images.shape, images.dtype) == ((2000, 28, 28), torch.uint8)
    assert (digits.shape, digits.dtype) == ((2000,), torch.int64)
    assert (digits.bincount(minlength=10) - 200).abs().max() < 60
    assert 0.17 < (images > 0).float().mean() < 0.21 and images.float().sum((1, 2)).min() > 0
    for side in (1, 2):
        assert ((images > 127).any(side).sum(1) > 20).float().mean() < 0.01
        mass = (images.float().sum(side)*torch.arange(28)).sum(1)/images.float().sum((1, 2))
        assert ((mass - 14).abs() < 1).float().mean() > 0.99


def test_each_way_comes_as_often_as_its_number_says():
    ways = {3: {'00 99': 3, '90 09': 1}, 7: {'00 99': 1}}
    with patch.dict(STROKES, ways, clear=True):
        images, digits = draw(4000, seeded())
    axis = torch.arange(28) - 14.
    falls = (images.float()*axis*axis[:, None]).sum((1, 2)) > 0
    assert digits.unique().tolist() == [3, 7] and abs((digits == 3).float().mean() - 0.5) < 0.04
    assert falls[digits == 7].float().mean() > 0.99
    assert abs(falls[digits == 3].float().mean() - 0.75) < 0.04


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_same_seed_same_digits(dtype, drawn):
    "Whatever the program's default type; and PyTorch's own numbers are left alone."
    state = torch.get_rng_state()
    torch.set_default_dtype(dtype)
    try:
        again, other = draw(2000, seeded()), draw(10, seeded(1))
        assert curve_weights(3, 9).dtype == blueprint('50 59')[0].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, again, drawn)) and not torch.equal(other[0], drawn[0][:10])
    assert torch.equal(torch.get_rng_state(), state)
