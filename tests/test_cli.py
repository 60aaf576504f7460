"""The commands: what they print, what they refuse and in which words, and how they end."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw

import mnist_mb
from mnist_mb import cli
from mnist_mb.data import DataError, Splits
from mnist_mb.training import Model, evaluate, fit

ROOT = Path(__file__).parent.parent
ONCE = 600  # seconds that only a process which hangs would need


@pytest.fixture
def few(drawn, monkeypatch):
    "The command takes the first 130 rows of each set, without reading or drawing anything."
    splits = Splits([(x[:130], y[:130]) for x, y in drawn], 'few', 'here')
    monkeypatch.setattr(cli, 'get_data', lambda source: splits)
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    return splits


@pytest.fixture
def saved(few, tmp_path):
    "A trained network's weights."
    torch.manual_seed(0)
    model = Model(784, 20, 10)
    fit(model, few[0], epochs=20, lr=0.1, progress=False)
    torch.save(model.state_dict(), tmp_path/'saved.pt')
    return tmp_path/'saved.pt'


def seven(folder, name='seven.png', ink='navy', paper='ivory'):
    page = Image.new('RGB', (200, 150), paper)
    ImageDraw.Draw(page).line([(60, 30), (115, 30), (85, 120)], ink, 14, 'curve')
    page.save(folder/name)
    return str(folder/name)


def start(*args, **env):
    "A process that runs `python -m mnist_mb` with these arguments, without MNIST and network."
    env = {k: v for k, v in os.environ.items() if k != 'MNIST_MB_DATA'} | {
        'MNIST_MB_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)} | env
    return subprocess.Popen([sys.executable, '-m', 'mnist_mb', *map(str, args)], text=True,
                            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process):
    out, err = process.communicate(timeout=ONCE)
    return process.returncode, out, err


def refused(capsys, func=cli.train, code=1, **options):
    "The one line with which the command ends."
    with pytest.raises(SystemExit) as e:
        func(**options)
    out, err = capsys.readouterr()
    assert e.value.code == code and out == '' and len(err.splitlines()) == 1, (e, out, err)
    assert err.startswith(f'mnist_mb_{func.__name__}: ')
    return err


@pytest.mark.parametrize('options, words', [
    (dict(bs=0), 'bs is 0'), (dict(lr=-1), 'lr is -1'), (dict(lr=float('nan')), 'lr is nan'),
    (dict(nh=0), 'nh is 0'), (dict(epochs=0), 'epochs is 0'), (dict(device='gpu9'), "'gpu9'"),
    (dict(device='cuda:99'), "'cuda:99'"), (dict(nh=10**9), 'no network with nh 1000000000'),
    (dict(nh=10**20), 'nh is'), (dict(nh=10**18), 'no network'), (dict(bs=10**20), 'bs is'),
    (dict(epochs=10**20), 'epochs is'), (dict(lr=1e308), 'lr is 1e'),
    (dict(seed=2**64), f'seed is {2**64}'), (dict(seed=-1), 'seed is -1'),
    (dict(history='h.xlsx'), '.csv or .json'), (dict(save='a.csv', history='a.csv'), 'same file'),
    (dict(plot='curves.pgf'), "can't draw curves.pgf"), (dict(save=os.devnull), 'no regular file'),
    (dict(weights='no.pt'), "can't read no.pt: No such file"),
    (dict(save='no/such/x.pt'), 'no folder no/such'),
    (dict(save='.'), 'it is a folder'), (dict(plot='curves.docx'), 'should end in'),
    (dict(save='same.png', plot='./same.png'), 'same file'),
    (dict(save='~no-such-user/x.pt'), 'no folder ~no-such-user')])
def test_what_it_cannot_do_it_says_in_one_line(few, capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PATH', '')  # no TeX
    assert words in refused(capsys, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('options, words', [
    (dict(bs=0), 'bs is 0'), (dict(rounds=0), 'rounds is 0'), (dict(lr=0), 'lr is 0'),
    (dict(plot='x.docx'), 'should end in'), (dict(plot='no/x.png'), 'no folder'),
    ({'lr': 1e308}, 'lr is 1e+308'), ({'threads': 0}, 'threads is 0'), ({'bs': 10**20}, 'bs is')])
def test_bench_refuses_likewise(few, capsys, options, words):
    pytest.importorskip('mnist_mb.speed')
    assert words in refused(capsys, cli.bench, **options)


def test_missing_data_end_in_one_line(capsys):
    assert 'not-there' in refused(capsys, data='not-there')


def raising(error):
    def broken(*args, **kwargs):
        raise error
    return broken


def test_errors_of_the_data_are_the_users(few, capsys, monkeypatch):
    monkeypatch.setattr(cli, 'get_data', raising(DataError('there is none')))
    assert 'there is none' in refused(capsys, epochs=1)


@pytest.mark.parametrize('where', ['get_data', 'train_epoch', 'evaluate'])
def test_a_fault_of_the_program_keeps_its_traceback(few, monkeypatch, where):
    monkeypatch.setattr(cli, where, raising(ValueError('a fault')))
    with pytest.raises(ValueError, match='a fault'):
        cli.train(epochs=1)


def test_files_that_exist_are_replaced_only_if_told(few, capsys, tmp_path):
    for name, end in (('save', 'png'), ('plot', 'png'), ('history', 'csv')):
        old = tmp_path/f'old.{end}'
        old.write_text('precious')
        assert f'old.{end}: it exists' in refused(capsys, **{name: str(old)})
        assert old.read_text() == 'precious'
        cli.train(**{name: str(old)}, epochs=1, overwrite=True)
        assert old.read_bytes() != b'precious'
        capsys.readouterr()


def test_it_trains_as_fit_does(few, capsys, tmp_path):
    state = torch.get_rng_state()
    saved, picture = tmp_path/'a.pt', tmp_path/'a.png'
    cli.train(data='few', epochs=2, bs=30, lr=0.1, nh=30, seed=5, save=str(saved),
              plot=str(picture))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    model = Model(784, 30, 10)
    history = fit(model, few[0], few[1], epochs=2, bs=30, lr=0.1, seed=5)
    weights = torch.load(saved, weights_only=True)
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(weights[k], p) for k, p in model.state_dict().items())
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == 'data: few, from here' and len(lines) == 7
    for line, (epoch, row) in zip(lines[1:3], history.iterrows(), strict=True):
        assert line == (f'epoch {epoch} train_loss {row.train_loss:.4f} valid_loss '
                        f'{row.valid_loss:.4f} valid_accuracy {row.valid_accuracy:.4f}')
    acc = evaluate(model, few[2])[1]
    interval = r'95 % interval 0\.\d{4} to 0\.\d{4}'
    assert re.fullmatch(f'test accuracy {acc:.4f}, {interval}', lines[3])
    assert lines[4] == f'weights: {saved}' and lines[6] == f'learning curves: {picture}'
    assert lines[5] == f'next: mnist_mb_predict {saved} PICTURE, or mnist_mb_pad {saved} PAGE.html'
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert sorted(tmp_path.iterdir()) == [picture, saved]


@pytest.mark.parametrize('end, read', [('csv', pd.read_csv), ('JSON', pd.read_json)])
def test_the_history_is_written(few, tmp_path, end, read):
    cli.train(epochs=2, bs=30, lr=0.1, nh=30, seed=5, history=str(tmp_path/f'h.{end}'))
    torch.manual_seed(5)
    want = fit(Model(784, 30, 10), few[0], few[1], epochs=2, bs=30, lr=0.1, seed=5)
    got = read(tmp_path/f'h.{end}')
    pd.testing.assert_frame_equal(got, want.reset_index(), rtol=1e-6)


def test_it_goes_on_from_saved_weights(few, saved, tmp_path):
    cli.train(weights=str(saved), epochs=1, lr=1e-30, save=str(tmp_path/'b.pt'))
    before, after = (torch.load(p, weights_only=True) for p in (saved, tmp_path/'b.pt'))
    assert all(torch.equal(before[k], after[k]) for k in before)


def damaged(path, name, value):
    state = torch.load(path, weights_only=True)
    state[name] = value
    torch.save(state, path)


@pytest.mark.parametrize('func', [cli.train, cli.predict, cli.pad])
@pytest.mark.parametrize('spoil, words', [
    (lambda p: p.write_text('not weights'), 'has no weights of this network: mnist_mb_train'),
    (lambda p: p.write_bytes(p.read_bytes()[:3000]), 'has no weights'),
    (lambda p: torch.save(torch.nn.Linear(784, 10), p), 'has no weights'),  # a pickle with code
    (lambda p: torch.save([1], p), 'has no weights'),
    (lambda p: damaged(p, 'layers.1.bias', torch.zeros(3)), 'has no weights'),
    (lambda p: damaged(p, 'layers.0.weight', torch.zeros(20, 28)), 'has no weights'),
    (lambda p: damaged(p, 'layers.2.bias', torch.full((10,), torch.nan)), 'inf or nan'),
    (lambda p: p.unlink() or p.mkdir(), "can't read"),
    (lambda p: p.unlink() or os.mkfifo(p), 'no regular file')])
def test_what_has_no_weights_is_refused(capsys, saved, tmp_path, func, spoil, words):
    spoil(saved)
    more = {'pad': dict(page=str(tmp_path/'a.html')), 'train': dict(data='drawn'),
            'predict': dict(picture=[seven(tmp_path)])}[func.__name__]
    assert words in refused(capsys, func, weights=str(saved), **more)
    assert not (tmp_path/'a.html').exists()


def test_weights_must_fit_what_is_asked_for(capsys, saved):
    assert 'nh is 30, and 20 in' in refused(capsys, weights=str(saved), nh=30)
    torch.save(Model(784, 20, 3).state_dict(), saved)
    assert 'for 3 classes' in refused(capsys, weights=str(saved))


def test_it_reads_pictures(saved, capsys, tmp_path):
    pictures = [seven(tmp_path), seven(tmp_path, 'n.jpg', 'white', 'black'), str(tmp_path/'no.png'),
                seven(tmp_path, 'blank.png', 'white', 'white'), str(saved)]
    with pytest.raises(SystemExit) as e:
        cli.predict(weights=str(saved), picture=pictures, seen=str(tmp_path/'seen.png'), top=2)
    out, err = capsys.readouterr()
    number = r'0\.\d{3}'
    want = [rf'{re.escape(path)}: (\d), doubt (\d+\.\d)% \(\1: ({number}), \d: {number}\); {ink}'
            for path, ink in zip(pictures, ('dark ink on light paper', 'light ink on dark paper'))]
    *lines, seen = out.splitlines()
    found = [re.fullmatch(w, line) for w, line in zip(want, lines, strict=True)]
    assert all(found) and found[0][1] == found[1][1] and seen == f'seen: {tmp_path/"seen.png"}'
    assert float(found[0][2]) == pytest.approx(100 - 100*float(found[0][3]), abs=0.11)
    errors = [re.escape(p) + '.*' + why for p, why in zip(pictures[2:], (
        'No such file', 'blank', 'cannot identify'))]
    assert e.value.code == 1 and Image.open(tmp_path/'seen.png').format == 'PNG'
    assert all(re.match(f'mnist_mb_predict: .*{w}', line)
               for w, line in zip(errors, err.splitlines(), strict=True))


def test_it_reads_what_it_was_trained_on(few, saved, capsys, tmp_path):
    pictures = []
    for i, x in enumerate(few[0][0][:40]):
        image = Image.fromarray(255 - (x.reshape(28, 28)*256).byte().numpy()).resize((90, 90))
        image.save(tmp_path/f'{i}.jpg')
        pictures.append(str(tmp_path/f'{i}.jpg'))
    cli.predict(weights=str(saved), picture=pictures)
    digits = [int(line.split(': ')[1][0]) for line in capsys.readouterr().out.splitlines()]
    cli.predict(weights=str(saved), picture=tmp_path/'0.jpg')
    assert capsys.readouterr().out.startswith(f'{pictures[0]}: {digits[0]}, doubt')
    assert (torch.tensor(digits) == few[0][1][:40]).float().mean() > 0.85


def test_it_makes_a_pad(saved, capsys, tmp_path):
    page = tmp_path/'pad.html'
    cli.pad(weights=str(saved), page=str(page))
    assert capsys.readouterr().out == f'open it in a browser: {page}\n'
    assert '784 to 20 to 10' in repr(cli.sketchpad(cli._load(saved)))
    assert cli.sketchpad(cli._load(saved)).body in page.read_text(encoding='utf-8')
    assert 'it exists' in refused(capsys, cli.pad, weights=str(saved), page=str(page))
    cli.pad(weights=str(saved), page=str(page), overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {'saved.pt', 'pad.html'}


def test_a_file_that_comes_meanwhile_is_left_alone(few, capsys, tmp_path, monkeypatch):
    path = tmp_path/'w.pt'
    monkeypatch.setattr(cli, 'evaluate', lambda *args: path.write_text('first') and evaluate(*args))
    cli.train(epochs=1, save=str(path))
    out, err = capsys.readouterr()
    other = tmp_path/f'w-{os.getpid()}.pt'
    assert path.read_text() == 'first' and f'weights: {other}\n' in out
    assert err == f'note: {path} is there by now\n'
    assert len(torch.load(other, weights_only=True)) == 4


def test_a_full_disk_ends_in_one_line(few, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, 'write_bytes', raising(OSError(28, 'No space left on device')))
    for option, end in (('save', 'pt'), ('plot', 'pdf')):
        path = tmp_path/f'w.{end}'
        with pytest.raises(SystemExit) as e:
            cli.train(epochs=1, **{option: str(path)})
        out, err = capsys.readouterr()
        assert e.value.code == 1 and 'test accuracy' in out and not list(tmp_path.iterdir())
        assert err == f"mnist_mb_train: can't write {path}: No space left on device\n"


def test_a_path_may_begin_at_home(few, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    cli.train(epochs=1, save='~/m.pt')
    assert (tmp_path/'m.pt').exists()


def test_what_the_data_warn_of_is_a_note(few, capsys, monkeypatch):
    def get_data(source):
        warnings.warn('it is not what you think')
        return few
    monkeypatch.setattr(cli, 'get_data', get_data)
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        cli.train(epochs=1)
    assert capsys.readouterr().err == 'note: it is not what you think\n'


@pytest.mark.parametrize('bs', [50, 10**6])  # all rows at once: the loss before the step is fine
def test_a_diverged_training_says_so(few, capsys, tmp_path, bs):
    with pytest.raises(SystemExit) as e:
        cli.train(lr=1e30, bs=bs, epochs=1, save=str(tmp_path/'x.pt'))
    out, err = capsys.readouterr()
    assert e.value.code == 1 and 'accuracy' not in out and not list(tmp_path.iterdir())
    assert len(err.splitlines()) == 1 and 'diverged' in err and 'smaller --lr' in err


def stopping(few, monkeypatch, where):
    "Ctrl+C while the data are read, in the first or second epoch, or in the test at the end."
    calls, train_epoch = [], cli.train_epoch
    def stop(*args):
        raise KeyboardInterrupt
    def epoch(*args):
        calls.append(1)
        return stop() if len(calls) == where else train_epoch(*args)
    def tested(model, data):
        return stop() if data[0] is few[2][0] else evaluate(model, data)
    for name, func in {'data': dict(get_data=stop), 'test': dict(evaluate=tested)}.get(
            where, dict(train_epoch=epoch)).items():
        monkeypatch.setattr(cli, name, func)


@pytest.mark.parametrize('where', ['data', 1, 'test'])
def test_ctrl_c_before_there_is_a_result(few, capsys, tmp_path, monkeypatch, where):
    stopping(few, monkeypatch, where)
    with pytest.raises(SystemExit) as e:
        cli.train(epochs=2, save=str(tmp_path/'a.pt'))
    out, err = capsys.readouterr()
    assert (e.value.code, err) == (130, 'mnist_mb_train: interrupted\n')
    assert 'test accuracy' not in out and not list(tmp_path.iterdir())


def test_ctrl_c_after_an_epoch_keeps_it(few, capsys, tmp_path, monkeypatch):
    stopping(few, monkeypatch, 2)
    with pytest.raises(SystemExit) as e:
        cli.train(epochs=3, save=str(tmp_path/'a.pt'), plot=str(tmp_path/'a.png'))
    out, err = capsys.readouterr()
    assert e.value.code == 130 and err == 'note: interrupted after 1 of 3 epochs\n'
    assert out.splitlines()[2].startswith('test accuracy ')
    assert len(torch.load(tmp_path/'a.pt', weights_only=True)) == 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_real_ctrl_c():
    code = ('import signal; signal.signal(signal.SIGINT, signal.default_int_handler); '
            'from mnist_mb.cli import train; train(data="drawn", epochs=10_000)')
    process = subprocess.Popen([sys.executable, '-c', code], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert process.stdout.readline().startswith('data: drawn, ')
    assert process.stdout.readline().startswith('epoch 1 ')
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    assert code == 130 and 'test accuracy 0.' in out, (out, err)
    assert re.fullmatch(r'note: interrupted after \d+ of 10000 epochs\n', err)


def test_fast_gives_the_same_figures(few, capsys):
    pytest.importorskip('mnist_mb.speed')
    figures = []
    for fast in (False, True):
        cli.train(epochs=2, lr=0.1, fast=fast)
        figures.append([float(v) for v in re.findall(r'loss (\d\.\d+)', capsys.readouterr().out)])
    assert len(figures[0]) == 4
    assert figures[1] == pytest.approx(figures[0], abs=2e-4)  # a few steps: rounding alone


def test_bench_compares(few, capsys, tmp_path):
    pytest.importorskip('mnist_mb.speed')
    cli.bench(rounds=1, lr=0.1, plot=str(tmp_path/'a.png'))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'data: few, from here' and lines[-1] == f'ratios: {tmp_path/"a.png"}'
    assert re.fullmatch(r'\| *way *\| *seconds *\| *ratio *\| *accuracy *\|', lines[1])
    assert len(lines) > 6 and (tmp_path/'a.png').read_bytes().startswith(b'\x89PNG')


def test_bench_writes_its_figures(few, capsys, tmp_path):
    pytest.importorskip('mnist_mb.speed')
    path = tmp_path/'a.json'
    cli.bench(rounds=1, lr=0.1, threads=2, json=str(path))
    facts = json.loads(path.read_text())
    lines = capsys.readouterr().out.splitlines()
    assert f'on {facts["processor"]}, threads: 2' in lines and lines[-1] == f'figures: {path}'
    told = [line for line in lines if 'without a row' in line]
    assert all(name in told[0] for name in facts['missing']) and len(told) <= 1
    assert facts['threads'] == 2 and facts['data'] == 'few'
    assert facts['ways']['matmul floor']['ratio'] == 1
    assert facts['ways']['matmul floor']['accuracy'] is None
    assert 'a.json: it exists' in refused(capsys, cli.bench, json=str(path))


@pytest.mark.parametrize('args, code, words', [
    ([], 0, 'predict  Read the digit'), (['eval'], 2, "'eval' is no command: say train, predict"),
    (['--version'], 0, f'mnist_mb {mnist_mb.__version__}\n'), (['--help'], 0, 'train'),
    (['pad', '--version'], 0, f'mnist_mb_pad {mnist_mb.__version__}\n'),
    (['predict', 'w.pt'], 2, 'required: picture'),
    (['train', '--help'], 0, 'usage: mnist_mb_train'), (['bench', '--help'], 0, '--rounds'),
    (['train', '--speed', '3'], 2, 'unrecognized arguments: --speed'),
    (['train', '--bs', 'many'], 2, "invalid int value: 'many'"),
    (['train', '--bs', '-3'], 1, 'bs is -3')])
def test_python_m(args, code, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mnist_mb', *args])
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    try:
        got = cli.main() or 0
    except SystemExit as e:
        got = e.code
    out, err = capsys.readouterr()
    assert got == code and words in (err if code else out) and bool(err) == bool(code)


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
@pytest.mark.parametrize('shell, code, words', [
    ('train --help >&-', 1, 'mnist_mb_train: standard output is closed\n'),
    ('pad --help >/dev/full', 1, "can't print: No space left on device\n"),
    ('bench --help', 0, ''), ('train --lr 0 >&- 2>&-', 1, ''),
    ('predict {0}/saved.pt {0}/seven.png >/dev/full', 1, "can't print: No space left on device\n"),
    ('predict {0}/saved.pt {0}/seven.png --seen {0}/a.png', 0, ''),
    ('pad {0}/saved.pt {0}/a.html', 1, "can't write {0}/a.html: File too large")])
def test_streams(saved, tmp_path, shell, code, words):
    "Closed, full, or unable to write more than ASCII; a display that is not there."
    seven(tmp_path)
    limit = 'ulimit -f 1; ' if 'large' in words else ''
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONUNBUFFERED'} | {
        'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'ascii', 'MPLBACKEND': 'module://none'}
    line = f'{limit}{sys.executable} -m mnist_mb {shell.format(tmp_path)}'
    ran = subprocess.run(['bash', '-c', line], env=env, text=True, timeout=ONCE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert ran.returncode == code, ran
    assert words.format(tmp_path) in ran.stderr and len(ran.stderr.splitlines()) == bool(words), ran
    assert not [p for p in tmp_path.iterdir() if p.name[0] == '.' or p.suffix == '.html']


@pytest.mark.slow
def test_python_m_trains():
    code, out, err = ended(start('train', '--data', 'drawn', '--epochs', '1', '--nh', '20'))
    assert code == 0 and err == '', err
    starts = 'data: drawn, from ', 'epoch 1 train_loss ', 'test accuracy 0.'
    assert [line[:len(s)] for line, s in zip(out.splitlines(), starts, strict=True)] == [*starts]


@pytest.mark.slow
def test_it_ends_quietly_when_nobody_reads():
    process = start('train', '--data', 'drawn', '--epochs', '10000')
    process.stdout.readline()
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=ONCE)) == ('', 1)


def pair(*args, args1=None):
    "Two processes of the command, started by hand, as torchrun does; the second may differ."
    pytest.importorskip('mnist_mb.distributed')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    both = [start('train', *a, RANK=str(rank), LOCAL_RANK=str(rank), **env)
            for rank, a in enumerate((args, args1 or args))]
    return [ended(process) for process in both]


@pytest.mark.slow
def test_two_processes_print_what_one_does(tmp_path):
    args = '--data', 'drawn', '--epochs', '1', '--bs', '1000'
    code, alone, _ = ended(start('train', *args))
    first, second = pair(*args, '--save', tmp_path/'a.pt')
    assert code == first[0] == second[0] == 0, (first, second)
    assert second[1:] == ('', '') and first[2] == '' and (tmp_path/'a.pt').exists()
    numbers = [[float(v) for v in re.findall(r'\d\.\d{4}', out)] for out in (alone, first[1])]
    assert len(numbers[0]) == 6 and numbers[1] == pytest.approx(numbers[0], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize('args, args1, words', [
    (('--bs', '0'), None, 'bs is 0'), (('--data', 'not-there'), None, 'not-there'),
    (('--data', 'drawn'), ('--data', 'not-there'), 'rank 1: '),
    (('--fast',), None, '--fast is for one process')])
def test_an_error_of_one_process_ends_all_in_one_line(args, args1, words):
    first, second = pair(*args, args1=args1)
    assert first[0] == second[0] == 1 and first[1] == second[1] == second[2] == ''
    assert words in first[2] and len(first[2].splitlines()) == 1, first[2]
