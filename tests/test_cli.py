"""The commands: what they print, what they refuse and in which words, and how they end."""
import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

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


def start(*args, **env):
    "A process that runs `python -m mnist_mb.cli` with these arguments, without MNIST and network."
    env = {k: v for k, v in os.environ.items() if k != 'MNIST_MB_DATA'} | {
        'MNIST_MB_OFFLINE': '1', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)} | env
    return subprocess.Popen([sys.executable, '-m', 'mnist_mb.cli', *map(str, args)], text=True,
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
    (dict(device='cuda:99'), "'cuda:99'"), (dict(nh=10**11), 'no network with nh 100000000000'),
    (dict(seed=2**64), f'seed {2**64}'), (dict(save='no/such/x.pt'), 'no folder no/such'),
    (dict(save='.'), 'it is a folder'), (dict(plot='curves.docx'), 'should end in'),
    (dict(save='same.png', plot='./same.png'), 'same file'),
    (dict(save='~no-such-user/x.pt'), 'no folder ~no-such-user')])
def test_what_it_cannot_do_it_says_in_one_line(few, capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('options, words', [
    (dict(bs=0), 'bs is 0'), (dict(rounds=0), 'rounds is 0'), (dict(lr=0), 'lr is 0'),
    (dict(plot='x.docx'), 'should end in'), (dict(plot='no/x.png'), 'no folder')])
def test_bench_refuses_likewise(few, capsys, options, words):
    pytest.importorskip('mnist_mb.speed')
    assert words in refused(capsys, cli.bench, **options)


def test_missing_data_end_in_one_line(capsys):
    assert 'not-there' in refused(capsys, data='not-there')


@pytest.mark.parametrize('error', [DataError('there is none'), ValueError('no such set')])
def test_errors_of_the_data_are_the_users(few, capsys, monkeypatch, error):
    def get_data(source):
        raise error
    monkeypatch.setattr(cli, 'get_data', get_data)
    assert str(error) in refused(capsys, epochs=1)


def test_a_fault_of_the_program_keeps_its_traceback(few, monkeypatch):
    def broken(*args):
        raise ValueError('a fault')
    monkeypatch.setattr(cli, 'train_epoch', broken)
    with pytest.raises(ValueError, match='a fault'):
        cli.train(epochs=1)


def test_files_that_exist_are_replaced_only_if_told(few, capsys, tmp_path):
    for name in ('save', 'plot'):
        old = tmp_path/'old.png'
        old.write_text('precious')
        assert 'old.png exists' in refused(capsys, **{name: str(old)})
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
    assert lines[0] == 'data: few, from here' and len(lines) == 6
    for line, (epoch, row) in zip(lines[1:3], history.iterrows(), strict=True):
        assert line == (f'epoch {epoch} train_loss {row.train_loss:.4f} valid_loss '
                        f'{row.valid_loss:.4f} valid_accuracy {row.valid_accuracy:.4f}')
    acc = evaluate(model, few[2])[1]
    interval = r'95 % interval 0\.\d{4} to 0\.\d{4}'
    assert re.fullmatch(f'test accuracy {acc:.4f}, {interval}', lines[3])
    assert lines[4:] == [f'weights: {saved}', f'learning curves: {picture}']
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert sorted(tmp_path.iterdir()) == [picture, saved]


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


def test_a_diverged_training_says_so(few, capsys, tmp_path):
    with pytest.raises(SystemExit) as e:
        cli.train(lr=1e30, save=str(tmp_path/'x.pt'))
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


@pytest.mark.parametrize('args, code, words', [
    ([], 1, "'' is no command: say train or bench"), (['eval'], 1, "'eval' is no command"),
    (['train', '--help'], 0, 'usage: mnist_mb_train'), (['bench', '--help'], 0, '--rounds'),
    (['train', '--speed', '3'], 2, 'unrecognized arguments: --speed'),
    (['train', '--bs', 'many'], 2, "invalid int value: 'many'"),
    (['train', '--bs', '-3'], 1, 'bs is -3')])
def test_python_m(args, code, words):
    got, out, err = ended(start(*args))
    assert got == code and words in out + err and 'Traceback' not in err, (got, out, err)


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
