"""The commands: what they print and write, what they refuse, and how they end.

Most run in this process, through `main` and the command line, since a start costs seconds.
"""
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

import mnist_mb
from mnist_mb.cli import main, mnist_mb_train
from mnist_mb.training import Model, evaluate, fit

ROOT = Path(__file__).parent.parent
ONCE = 600  # seconds that only a process which hangs would need
FEW = ['--data', 'drawn', '--bs', '500', '--epochs', '1']


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    "What `python -m mnist_mb` does with these arguments: (exit code, stdout, stderr)."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('MPLBACKEND', 'module://none')

    def command(*args):
        monkeypatch.setattr(sys, 'argv', ['mnist_mb', *map(str, args)])
        capsys.readouterr()
        try:
            code = main() or 0
        except SystemExit as e:
            code = e.code or 0
        out, err = capsys.readouterr()
        return (1, out, f'{err}{code}\n') if isinstance(code, str) else (code, out, err)
    return command


@pytest.fixture
def start(tmp_path):
    "A process that runs `python -m mnist_mb`; an interrupt reaches it, as in a terminal."
    started = []

    def command(*args, options=()):
        env = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
        code = 'import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler); ' \
            'runpy.run_module("mnist_mb", run_name="__main__", alter_sys=True)'
        started.append(subprocess.Popen(
            [sys.executable, *options, '-c', code, *args], env=env, cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]
    yield command
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope='module')
def weights(drawn):
    "A trained network's weights, as `mnist_mb_train --save` of version 0.2.0 wrote them."
    torch.manual_seed(0)
    model = Model(784, 20, 10)
    fit(model, drawn[0], epochs=2, bs=100, progress=False)
    (w0, b0, w2, b2) = (p.detach() for p in model.parameters())
    return OrderedDict({'layers.0.weight': w0, 'layers.0.bias': b0,
                        'layers.2.weight': w2, 'layers.2.bias': b2})


@pytest.fixture
def saved(weights, tmp_path):
    torch.save(weights, tmp_path/'saved.pt')
    return tmp_path/'saved.pt'


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def seven(path, ink='navy', paper='ivory'):
    page = Image.new('RGB', (200, 150), paper)
    ImageDraw.Draw(page).line([(60, 30), (115, 30), (85, 120)], ink, 14, 'curve')
    page.save(path)
    return path


@pytest.mark.parametrize('line, words', [
    ('train --epochs 0', 'epochs is 0; it must be positive'), ('train --bs 0', 'bs is 0'),
    ('train --bs -3', 'bs is -3'), ('train --nh 0', 'nh is 0'), ('train --lr -1', 'lr is -1'),
    ('train --lr nan', 'lr is nan'), ('train --threads 0', 'threads is 0'),
    ('train --device gpu9', "device 'gpu9'"), ('train --device cuda:99', "device 'cuda:99'"),
    ('train --nh 1000000000000', 'memory'),
    ('train --seed 99999999999999999999', 'seed 99999999999999999999'),
    ('train --weights no.pt', "No such file or directory: 'no.pt'"),
    ('train --data not-there', 'not-there'), ('train --save .', "can't write .: "),
    ('train --save no/such/x.pt', "can't write no/such/x.pt: No such file"),
    ('train --plot curves.docx', "'docx' is not supported"),
    ('train --save same.png --plot ./same.png', 'an output is an input, or the same'),
    ('predict saved.pt old.png --seen ./old.png --overwrite', 'an output is an input'),
    ('pad saved.pt ./saved.pt --overwrite', 'an output is an input'),
    ('train --weights saved.pt --save saved.pt --overwrite', 'an output is an input'),
    ('train --data old.pt --history old.pt --overwrite', 'an output is an input'),
    ('train --save old.pt', 'old.pt: it exists'), ('pad saved.pt old.pt', 'old.pt: it exists'),
    ('predict saved.pt seven.png --seen old.pt', 'old.pt: it exists'),
    ('predict no.pt seven.png', 'No such file'), ('pad . pad.html', 'Is a directory'),
    ("train --save ''", "can't write ."), ("train --weights ''", 'Is a directory'),
    ("train --data ''", 'it lacks train-images'), ("pad saved.pt ''", "can't write ."),
    (f'predict {300*"x"} old.png', 'name too long'), (f'pad saved.pt {300*"x"}', 'name too long'),
    (f'train --save {300*"x"}', 'name too long'), (f'train --data {300*"x"}', 'name too long')])
def test_what_it_cannot_do_it_says_in_one_line(run, saved, tmp_path, line, words):
    (tmp_path/'old.pt').write_text('precious')
    seven(tmp_path/'old.png')
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*('' if word == "''" else word for word in line.split()))
    assert code == 1 and out == '' and len(err.splitlines()) == 1, (out, err)
    assert err.startswith(f'mnist_mb_{line.split()[0]}: ') and words in err
    assert before == sorted(tmp_path.iterdir()) and (tmp_path/'old.pt').read_text() == 'precious'


def test_a_folder_that_may_not_be_entered(run, user):
    locked = user/'locked'
    locked.mkdir(mode=0)
    for args in (['train', '--save', locked/'w.pt'], ['train', '--data', locked],
                 ['train', '--weights', locked/'w.pt'], ['pad', locked/'w.pt', user/'pad.html']):
        code, out, err = run(*args)
        assert code == 1 and out == '' and len(err.splitlines()) == 1
        assert str(locked) in err and 'Permission denied' in err, err


def test_no_mnist_and_no_network(run, monkeypatch, tmp_path):
    monkeypatch.delenv('MNIST_MB_DATA', raising=False)
    monkeypatch.setenv('MNIST_MB_OFFLINE', '1')
    monkeypatch.setenv('MNIST_MB_CACHE', str(tmp_path/'cache'))
    code, out, err = run('train', '--data', 'mnist')
    assert code == 1 and out == '' and err.startswith('mnist_mb_train: no mnist')


def test_it_trains_as_fit_does(run, drawn, tmp_path):
    given = ['train', '--data', 'drawn', '--epochs', '2', '--bs', '500', '--nh', '30', '--seed',
             '5', '--save', 'w.pt', '--plot', 'c.png', '--history', 'h.csv']
    code, out, err = run(*given)
    assert (code, err, torch.get_num_threads()) == (0, '', 1)
    torch.manual_seed(5)
    model = Model(784, 30, 10)
    history = fit(model, *drawn[:2], epochs=2, bs=500, seed=5, progress=False)
    assert same(torch.load('w.pt', weights_only=True), model.state_dict())
    pd.testing.assert_frame_equal(pd.read_csv('h.csv', index_col='epoch'), history)
    assert Image.open('c.png').format == 'PNG'
    acc = evaluate(model, drawn[2])[1]
    want = ['data: drawn, from strokes, seed 0',
            *(f'epoch {k} train_loss {r.train_loss:.4f} valid_loss {r.valid_loss:.4f} '
              f'valid_accuracy {r.valid_accuracy:.4f}' for k, r in history.iterrows()),
            rf'test accuracy {acc:.4f}, 95 % interval 0\.\d{{4}} to 0\.\d{{4}}', 'weights: w.pt',
            'next: mnist_mb_predict w.pt PICTURE, or mnist_mb_pad w.pt PAGE.html',
            'learning curves: c.png', 'history: h.csv']
    assert all(re.fullmatch(w, line) for w, line in zip(want, out.splitlines(), strict=True)), out
    assert sorted(p.name for p in tmp_path.iterdir()) == ['c.png', 'h.csv', 'w.pt']

    code, _, err = run(*given, '--overwrite', '--fast')
    assert (code, err) == (0, '')
    pd.testing.assert_frame_equal(pd.read_csv('h.csv', index_col='epoch'), history, atol=2e-3)
    assert not same(torch.load('w.pt', weights_only=True), model.state_dict())  # rounding


def prefixed(by):
    return lambda name, p: (f'{by}{name}', p)


LAYOUTS = {
    'version 0.2.0': prefixed(''), 'float64': lambda name, p: (name, p.double()),
    'of nn.Sequential': lambda name, p: (name.removeprefix('layers.'), p),
    'after a Flatten': lambda name, p: (f'{int(name[7]) + 1}{name[8:]}', p),
    'compiled': prefixed('_orig_mod.'), 'in parallel': prefixed('module.'),
    'both': prefixed('module._orig_mod.'), 'an attribute of a class': prefixed('net.')}


@pytest.mark.parametrize('layout', [*LAYOUTS, 'model_state_dict', 'state_dict'])
def test_saved_weights_are_loaded(run, weights, layout):
    "A tiny learning rate leaves them as they are; the width is theirs."
    change = LAYOUTS.get(layout, prefixed(''))
    state = OrderedDict(change(*pair) for pair in weights.items())
    torch.save(state if layout in LAYOUTS else {'epoch': 3, layout: state}, 'a.pt')
    code, _, err = run('train', *FEW, '--weights', 'a.pt', '--lr', '1e-30', '--save', 'b.pt',
                       '--threads', '2')
    assert (code, err, torch.get_num_threads()) == (0, '', 2)
    assert same(torch.load('b.pt', weights_only=True), weights)


def damaged(path, name, value):
    state = torch.load(path, weights_only=True)
    state[name] = value
    torch.save(state, path)


class Trap:
    def __reduce__(self):
        return os.mkdir, ('sprung',)


@pytest.mark.parametrize('spoil, words', [
    (lambda p: p.write_text('not weights'), 'has no state_dict; weights of 784 to nh to 10 are'),
    (lambda p: p.write_bytes(p.read_bytes()[:3000]), 'has no state_dict'),
    (lambda p: torch.save(Trap(), p), 'has no state_dict'),
    (lambda p: torch.save([1], p), 'has no state_dict'),
    (lambda p: torch.save(nn.Linear(2, 3).state_dict(), p), "has ['weight', 'bias']; weights"),
    (lambda p: damaged(p, 'layers.1.bias', torch.zeros(3)), "'layers.1.bias']; weights of"),
    (lambda p: damaged(p, 'layers.0.weight', torch.zeros(20, 28)), 'weights of 784 to nh'),
    (lambda p: torch.save(Model(784, 20, 3).state_dict(), p), 'weights of 784 to nh to 10'),
    (lambda p: damaged(p, 'layers.2.bias', torch.full((10,), torch.nan)), 'inf or nan')])
def test_what_has_no_weights_is_refused(run, saved, tmp_path, spoil, words):
    spoil(saved)
    code, out, err = run('predict', saved, seven('seven.png'))
    assert code == 1 and out == '' and len(err.splitlines()) == 1
    assert err.startswith('mnist_mb_predict: ') and words in err
    assert {p.name for p in tmp_path.iterdir()} == {'saved.pt', 'seven.png'}


def test_it_reads_pictures(run, saved):
    seven('a.png'), seven('b.jpg', 'white', 'black'), seven('blank.png', 'white', 'white')
    code, out, err = run('predict', saved, 'a.png', 'blank.png', 'no.png', 'b.jpg', saved,
                         '--seen', 'seen.png')
    number = r'0\.\d{3}'
    want = [rf'{path}: 7, doubt (\d+\.\d)% \(7: ({number}), \d: {number}, \d: {number}\); '
            rf'{ink} paper' for path, ink in (('a.png', 'dark ink on light'),
                                             ('b.jpg', 'light ink on dark'))]
    found = [re.fullmatch(w, line) for w, line in
             zip([*want, 'seen: seen.png'], out.splitlines(), strict=True)]
    assert all(found), out
    assert float(found[0][1]) == pytest.approx(100 - 100*float(found[0][2]), abs=0.11)
    why = 'blank.png: .*blank', 'no.png: .*No such file', 'saved.pt: .*cannot identify'
    errors = zip(why, err.splitlines(), strict=True)
    assert code == 1 and all(re.match(f'mnist_mb_predict: .*{w}', e) for w, e in errors), err
    assert Image.open('seen.png').format == 'PNG'


def test_it_reads_a_folder_of_pictures(run, saved, tmp_path):
    (tmp_path/'my pictures/more').mkdir(parents=True)
    for name in ('b.png', 'a.jpg', '.hidden.png', 'more/c.png'):
        seven(f'my pictures/{name}')
    seven('d.png')
    code, out, err = run('predict', saved, 'my pictures', 'd.png', '--seen', 'seen.png')
    assert (code, err) == (0, '')
    lines = re.findall(r'^(.*): 7, doubt', out, re.M)
    assert lines == [str(Path('my pictures')/name) for name in ('a.jpg', 'b.png')] + ['d.png']
    assert run('predict', saved, 'my pictures', '--seen', 'my pictures/a.jpg',
               '--overwrite')[0] == 1  # that is an input
    (tmp_path/'empty').mkdir()
    code, out, err = run('predict', saved, 'empty')
    assert (code, out) == (1, '') and 'no picture in empty' in err


def test_the_next_command_can_be_pasted(run, tmp_path):
    (tmp_path/'my dir').mkdir()
    code, out, _ = run('train', *FEW, '--save', 'my dir/w 1.pt')
    assert code == 0 and 'weights: my dir/w 1.pt\n' in out
    command, = re.findall('next: mnist_mb_(.*), or mnist', out)
    _, *args = shlex.split(command.replace('PICTURE', str(seven('a.png'))))
    assert run('predict', *args)[0] == 0


def test_nobody_without_a_home(run, monkeypatch, tmp_path):
    "In a container the user may have no name and no home: the cache is a temporary folder."
    monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'tmp'))
    (tmp_path/'tmp').mkdir()
    for name in ('MNIST_MB_CACHE', 'MNIST_MB_DATA'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MNIST_MB_OFFLINE', '1')
    code, out, err = run('train', '--data', 'mnist')
    assert code == 1 and err.count('Error') == 0 and str(tmp_path/'tmp/mnist_mb') in err, err


def test_it_says_what_is_doubtful_about_the_ink(run, saved):
    page = Image.open(seven('two.png'))
    ImageDraw.Draw(page).line([(160, 30), (160, 120)], 'navy', 14)
    page.save('two.png')
    code, out, err = run('predict', saved, 'two.png')
    assert (code, err) == (0, '')
    assert re.fullmatch(r'two.png: \d, .* paper; check the ink: it is in 2 parts\n', out), out


def test_it_reads_what_it_was_trained_on(run, saved, drawn):
    x, y = (t[:40] for t in drawn[0])
    for i, image in enumerate(x):
        image = Image.fromarray(255 - (image.reshape(28, 28)*256).byte().numpy())
        image.resize((90, 90)).save(f'{i}.jpg')
    code, out, err = run('predict', saved, *(f'{i}.jpg' for i in range(40)))
    digits = re.findall(r'^\d+\.jpg: (\d)', out, re.M)
    right = [int(digit) == int(k) for digit, k in zip(digits, y, strict=True)]
    assert code == 0 and sum(right) > 34


def test_it_makes_a_pad(run, saved, monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert run('pad', saved, '~/pad.html') == (0, 'open it in a browser: ~/pad.html\n', '')
    assert '<h1>Draw a digit</h1>' in Path('pad.html').read_text(encoding='utf-8')
    assert run('pad', saved, 'pad.html', '--overwrite')[0] == 0
    assert {p.name for p in tmp_path.iterdir()} == {'saved.pt', 'pad.html'}


def test_a_full_disk_ends_in_one_line(run, saved, tmp_path):
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    commands = [['train', *FEW, '--save', 'w.pt'], ['train', *FEW, '--plot', 'c.png'],
                ['pad', saved, 'pad.html']]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        results = [run(*args) for args in commands]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for code, _, err in results:
        assert code == 1 and len(err.splitlines()) == 1 and 'File too large' in err, err
    assert [*tmp_path.iterdir()] == [saved]


@pytest.mark.parametrize('bs', [500, 10**6])  # all rows at once: the loss before the step is fine
def test_a_diverged_training_says_so(run, tmp_path, bs):
    code, out, err = run('train', *FEW, '--lr', '1e30', '--bs', bs, '--save', 'x.pt')
    assert code == 1 and out.startswith('data: ') and 'accuracy' not in out
    assert err.startswith('mnist_mb_train: epoch 1: ') and 'lr' in err and err.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_keeps_the_epochs_that_are_finished(start, drawn, tmp_path):
    process = start('train', '--data', 'drawn', '--epochs', '10000', '--save', 'w.pt',
                    '--plot', 'c.png', '--history', 'h.csv')
    assert [process.stdout.readline()[:7] for _ in range(2)] == ['data: d', 'epoch 1']
    time.sleep(0.5)  # so that the next one has begun
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=ONCE)
    said = re.fullmatch(r'mnist_mb_train: interrupted after (\d+) of 10000 epochs\n', err)
    assert process.returncode == 130 and said, err
    epochs = int(said[1])
    assert re.search('^test accuracy 0.*^weights: w.pt$.*^history: h.csv$', out, re.M | re.S)
    torch.manual_seed(1)
    model = Model(784, 50, 10)
    history = fit(model, *drawn[:2], epochs=epochs, seed=1, progress=False)
    assert same(torch.load(tmp_path/'w.pt', weights_only=True), model.state_dict())
    assert len(pd.read_csv(tmp_path/'h.csv')) == len(history) == epochs


@pytest.mark.slow
def test_ctrl_c_before_an_epoch_is_finished(start, tmp_path):
    process = start('train', '--data', 'drawn', '--bs', '1', '--save', 'w.pt')
    assert process.stdout.readline().startswith('data: ')
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=ONCE) == ('', 'mnist_mb_train: interrupted\n')
    assert process.returncode == 130 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_ends_quietly_when_nobody_reads(start):
    process = start('train', '--data', 'drawn', '--epochs', '10000', '--bs', '1000')
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=ONCE)) == ('', 1)


@pytest.mark.slow
def test_help_without_docstrings(start):
    out, err = start('train', '--help', options=['-OO']).communicate(timeout=ONCE)
    assert 'of the processor (default: 1)' in out, err


def test_fast_is_for_one_process(run, monkeypatch):
    monkeypatch.setenv('RANK', '0')
    assert run('train', '--fast') == (1, '', 'mnist_mb_train: --fast is for one process\n')


@pytest.mark.parametrize('line, code, words', [
    ('', 2, 'required: command'), ('eval', 2, "'eval'"), ('--help', 0, 'train,predict,pad'),
    ('--version', 0, f'mnist_mb {mnist_mb.__version__}\n'),
    ('pad --version', 0, f'mnist_mb_pad {mnist_mb.__version__}\n'),
    ('train --help', 0, 'Train the network of the course, and test it.'),
    ('predict w.pt', 2, 'required: picture'), ('train --bs many', 2, "invalid int value: 'many'")])
def test_python_m(run, line, code, words):
    got, out, err = run(*line.split())
    assert got == code and words in (err if code else out) and bool(err) == bool(code)


def test_from_python_errors_are_errors():
    with pytest.raises(ValueError, match='bs is 0'):
        mnist_mb_train(bs=0)
