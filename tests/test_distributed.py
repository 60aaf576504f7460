"""Real processes, over loopback, train as one does, and end when one of them dies.

Most are started by hand, without torchrun: it ends a process whose neighbor has died, and here they
must notice by themselves, as on several computers. Nothing is timed: BOUND is for a hang alone.
"""
import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from mnist_mb import distributed
from mnist_mb.distributed import distributed_epoch, process_group, ranks, shard, why_stopped
from mnist_mb.training import Model, PlainSGD, fit, train_epoch

BOUND = 300  # seconds
# Float64: a few dozen steps leave rounding near 1e-14; one row with a wrong weight shows at 1e-3.
CLOSE = 1e-9
ALONE = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')
TORCHRUN = ['-m', 'torch.distributed.run', '--nproc-per-node', '2', '--master-port']

WORKER = '''
import json, os, signal, sys, torch
from mnist_mb.distributed import distributed_epoch, process_group, ranks, why_stopped
from mnist_mb.training import Model, fit

def befallen(batches):
    "The minibatches; before the twentieth one, what `signals` has for this rank happens."
    for step, pair in enumerate(batches):
        if step == 20 and str(rank) in given.get('signals', {}):
            os.kill(os.getpid(), getattr(signal, given['signals'][str(rank)]))
        yield pair

def epoch_func(model, batches, optimizer, loss_func):
    return distributed_epoch(model, befallen(batches), optimizer, loss_func)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job ignores
torch.set_num_threads(1)
given = json.loads(sys.argv[1])
rank, size, _ = ranks()
g = torch.Generator().manual_seed(0)
x = torch.rand(given['rows'], 784, generator=g, dtype=torch.double)
y = torch.randint(10, (len(x),), generator=g)
torch.manual_seed(rank)  # rank 0's weights count
model = Model(784, 20, 10).double()
try:
    with process_group(timeout=given.get('timeout', 60)):
        how = dict(epochs=2, bs=given['bs'], lr=0.1, progress=False, epoch_func=epoch_func)
        history = fit(model, (x, y), **how)
        # One write a line: two processes share a pipe, and unbuffered, `print` writes each word.
        sys.stdout.write(' '.join(map(str, [rank, *history.train_loss])) + '\\n')
    torch.save(model.state_dict(), f"{given['folder']}/{rank}.pt")
except RuntimeError as e:
    sys.exit(f'rank {rank}: {why_stopped(e)}')
'''


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


@pytest.fixture
def start():
    "Start Python with arguments and environment variables; what is left at the end is killed."
    started = []

    def run(*args, **env):
        env = os.environ | {'MNIST_MB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'} | env
        started.append(subprocess.Popen([sys.executable, *args], env=env, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]
    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def pair(start, tmp_path):
    "Two workers by hand, without torchrun, as they end: (exit code, stdout, stderr) of each."
    def run(which=(0, 1), env=(), **given):
        port, given = free_port(), json.dumps({'folder': str(tmp_path)} | given)
        processes = [start('-c', WORKER, given, RANK=str(rank), WORLD_SIZE='2',
                           LOCAL_RANK=str(rank), MASTER_ADDR='127.0.0.1', MASTER_PORT=port,
                           **dict(env)) for rank in (0, 1)]
        return [ended(processes[rank]) for rank in which]
    return run


def ended(process):
    out, err = process.communicate(timeout=BOUND)
    return process.returncode, out, err


def one_process(rows, bs):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 784, generator=g, dtype=torch.double)
    y = torch.randint(10, (rows,), generator=g)
    torch.manual_seed(0)
    model = Model(784, 20, 10).double()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    history = fit(model, (x, y), epochs=2, bs=bs, lr=0.1, progress=False)
    return before, model.state_dict(), list(history.train_loss)


def farthest(one, other):
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize('n', [1, 2, 5, 50])
@pytest.mark.parametrize('size', [1, 2, 3, 7])
def test_shards(n, size):
    xb, yb = torch.arange(2*n).reshape(n, 2), torch.arange(n)
    shards = [shard(xb, yb, rank, size) for rank in range(size)]
    assert torch.equal(torch.cat([x for x, _, weight in shards if weight]), xb)
    assert torch.equal(torch.cat([y for _, y, weight in shards if weight]), yb)
    assert sum(weight for *_, weight in shards) == pytest.approx(size)
    assert all(len(x) == len(y) > 0 for x, y, _ in shards)
    for x, _, weight in shards:
        assert weight == 0 or weight == pytest.approx(len(x)*size/n)
    lengths = [len(x)*bool(weight) for x, _, weight in shards]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize('x, y, rank, size, error, words', [
    (9, 9, 2, 2, ValueError, 'rank is 2; it can be 0 to 1'),
    (9, 9, -1, 2, ValueError, 'rank is -1'),
    (9, 9, 0, 0, ValueError, 'size is 0'), (9, 8, 0, 2, TypeError, 'as many rows'),
    (9, None, 0, 2, TypeError, 'must be tensors')])
def test_shard_refuses(x, y, rank, size, error, words):
    with pytest.raises(error, match=words):
        shard(torch.zeros(x), y and torch.zeros(y), rank, size)


def test_ranks():
    with patch.dict(os.environ, clear=True):
        assert ranks() == (0, 1, 0)
    with patch.dict(os.environ, {'WORLD_SIZE': '8', 'RANK': '5'}, clear=True):
        assert ranks() == (5, 8, 5)
        with patch.dict(os.environ, LOCAL_RANK='1'):
            assert ranks() == (5, 8, 1)


@pytest.mark.parametrize('env, why', [
    ({}, 'RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set.*torchrun'),
    ({k: v for k, v in ALONE.items() if k != 'MASTER_PORT'}, 'MASTER_PORT not set'),
    ({'RANK': '1'}, 'RANK is 1; with WORLD_SIZE 1'), ({'WORLD_SIZE': '2'}, 'whole numbers'),
    (ALONE | {'RANK': 'x'}, 'whole numbers'), (ALONE | {'RANK': ''}, 'whole numbers'),
    (ALONE | {'RANK': '1'}, 'RANK is 1; with WORLD_SIZE 1 it can be 0 to 0'),
    (ALONE | {'WORLD_SIZE': '-2'}, 'whole'), (ALONE | {'LOCAL_RANK': '1.5'}, 'whole numbers')])
def test_environments_that_are_no_torchrun(env, why):
    with patch.dict(os.environ, env, clear=True), pytest.raises(ValueError, match=why):
        with process_group():
            pass
    assert not dist.is_initialized()


@pytest.mark.parametrize('device', ['cuda:1', 'mps', 'gpu9'])
def test_devices(device):
    with patch.dict(os.environ, ALONE), pytest.raises(ValueError, match=f'device is .{device}'):
        with process_group(device):
            pass


def test_more_processes_than_gpus():
    with patch('torch.cuda.device_count', lambda: 2), patch.dict(os.environ, ALONE, LOCAL_RANK='2'):
        with pytest.raises(ValueError, match='LOCAL_RANK is 2, and there are 2'):
            with process_group('cuda'):
                pass


def test_a_group_of_one_is_train_epoch():
    x, y = torch.rand(101, 784), torch.randint(10, (101,))
    found = []
    for epoch_func in (train_epoch, distributed_epoch):
        torch.manual_seed(1)
        net = Model(784, 20, 10)
        with patch.dict(os.environ, ALONE), process_group() as device:
            history = fit(net, (x, y), (x, y), epochs=2, progress=False, epoch_func=epoch_func)
        found.append((history, net.state_dict()))
    assert device == torch.device('cpu') and not dist.is_initialized()
    assert found[0][0].equals(found[1][0])
    assert all(torch.equal(p, found[1][1][name]) for name, p in found[0][1].items())


def test_outside_a_group_and_without_minibatches():
    net = Model(784, 5, 10)
    sgd = PlainSGD(net.parameters(), 0.1)
    with pytest.raises(ValueError, match='torchrun'):
        distributed_epoch(net, [], sgd)
    with patch.dict(os.environ, ALONE), process_group():
        with pytest.raises(ValueError, match='no minibatches'):
            distributed_epoch(net, [], sgd)


@pytest.mark.parametrize('said, why', [
    ('[/x/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:5. T',
     'another process has ended or does not answer (Connection closed by peer [::1]:5)'),
    ('[/x/unbound_buffer.cc:81] Timed out waiting 5000ms for recv operation to complete',
     'another process has ended or does not answer '
     '(Timed out waiting 5000ms for recv operation to complete)'),
    ('[/x/device.cc:84] ifa != nullptr. Unable to find address for: nope0',
     'ifa != nullptr. Unable to find address for: nope0'),
    ('NCCL watchdog timed out\nmore',
     'another process has ended or does not answer (NCCL watchdog timed out)'),
    ('out of memory. Tried\nmore', 'out of memory. Tried'), ('', 'RuntimeError')])
def test_why_stopped(said, why):
    assert why_stopped(RuntimeError(said)) == why


@pytest.mark.slow
@pytest.mark.parametrize('rows, bs', [(211, 10), (101, 25)])
def test_two_processes_train_as_one(pair, tmp_path, rows, bs):
    "The last minibatch has one row: one process has none. Shards of 25 rows are uneven."
    before, after, losses = one_process(rows, bs)
    results = pair(rows=rows, bs=bs)
    assert [code for code, *_ in results] == [0, 0], results
    for rank, (_, out, _) in enumerate(results):
        told = list(map(float, out.split()))
        assert told[0] == rank and told[1:] == pytest.approx(losses, abs=CLOSE)
    one, other = (torch.load(tmp_path/f'{rank}.pt', weights_only=True) for rank in (0, 1))
    assert farthest(one, other) == 0
    assert farthest(one, after) < CLOSE < 1e-3 < farthest(one, before)


@pytest.mark.slow
def test_torchrun(start, tmp_path):
    (tmp_path/'worker.py').write_text(WORKER)
    given = json.dumps({'folder': str(tmp_path), 'rows': 211, 'bs': 10})
    code, out, err = ended(start(*TORCHRUN, free_port(), str(tmp_path/'worker.py'), given))
    assert code == 0, err
    *_, losses = one_process(211, 10)
    for line in out.splitlines():
        assert list(map(float, line.split()[1:])) == pytest.approx(losses, abs=CLOSE)
    assert sorted(line[0] for line in out.splitlines()) == ['0', '1']


FORMING = '''
import os, sys
import torch.distributed as dist
from mnist_mb.distributed import process_group, ranks, why_stopped
if sys.argv[1] == str(ranks()[0]):  # killed on the way into the group
    dist.init_process_group = lambda *args, **kw: os.kill(os.getpid(), 9)
try:
    with process_group(timeout=5):
        pass
except RuntimeError as e:
    sys.exit(f'rank {ranks()[0]}: {why_stopped(e)}')
'''


@pytest.mark.slow
@pytest.mark.parametrize('dead', [0, 1])
def test_a_process_is_killed_while_the_group_forms(start, dead):
    results = [ended(run) for run in commands(start, '-c', FORMING, str(dead))]
    assert results[dead][0] == -signal.SIGKILL
    code, _, err = results[1 - dead]
    assert code == 1 and f'rank {1 - dead}: another process has ended' in err


@pytest.mark.slow
@pytest.mark.parametrize('held', [True, False])
def test_rank_0_does_not_come(start, held):
    "PyTorch waits forever where the port belongs to a program that never answers."
    with socket.socket() as stranger:
        stranger.bind(('127.0.0.1', 0))
        if held:
            stranger.listen()
        port = str(stranger.getsockname()[1])
        code, _, err = ended(start('-c', FORMING, 'none', RANK='1', LOCAL_RANK='1', WORLD_SIZE='2',
                                   MASTER_ADDR='127.0.0.1', MASTER_PORT=port))
    assert code == 1 and 'rank 1: another process has ended or does not answer' in err


@pytest.mark.slow
@pytest.mark.parametrize('dead', [0, 1])
def test_a_process_is_killed(pair, tmp_path, dead):
    results = pair(rows=500, bs=10, signals={dead: 'SIGKILL'})
    assert results[dead][0] == -signal.SIGKILL
    code, out, err = results[1 - dead]
    assert code == 1 and out == '' and f'rank {1 - dead}: another process has ended' in err
    assert len([line for line in err.splitlines() if line.startswith('rank')]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_process_stands_still(pair, tmp_path):
    (code, _, err), = pair(which=[0], rows=500, bs=10, signals={1: 'SIGSTOP'}, timeout=5)
    assert code == 1 and 'does not answer' in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torchrun_ends_when_a_process_is_killed(start, tmp_path):
    (tmp_path/'worker.py').write_text(WORKER)
    given = json.dumps({'folder': str(tmp_path), 'rows': 500, 'bs': 10,
                        'signals': {'1': 'SIGKILL'}})
    code, _, err = ended(start(*TORCHRUN, free_port(), str(tmp_path/'worker.py'), given))
    assert code == 1 and ('SIGKILL' in err or 'Signal 9' in err)
    assert not list(tmp_path.glob('*.pt'))


@pytest.mark.slow
def test_gloo_says_what_is_wrong(pair):
    for code, _, err in pair(rows=50, bs=10, env={'GLOO_SOCKET_IFNAME': 'nope0'}):
        assert code == 1 and 'nope0' in err and 'another process' not in err.splitlines()[-1]


TOGETHER = '''
import sys
from mnist_mb.distributed import process_group, ranks, together
rank, case, log = ranks()[0], *sys.argv[1:]

def work():
    with open(log, 'a') as f:
        print(rank, 'begins', file=f)
    if case == 'fails' and rank == 1:
        raise ValueError('no such thing')
    with open(log, 'a') as f:
        print(rank, 'ends', file=f)
    return [rank if case == 'differs' else 7]

with process_group():
    print(together(work, case == 'turns', 'prog'))
'''


@pytest.mark.slow
@pytest.mark.parametrize('case, code, said', [
    ('turns', 0, '[7]\n[7]\n'), ('fails', 1, 'prog: rank 1: no such thing\n'),
    ('differs', 1, 'prog: rank 1: has [1], and rank 0 [0]; all need the same\n')])
def test_together(start, tmp_path, case, code, said):
    results = [ended(run) for run in commands(start, '-c', TOGETHER, case, str(tmp_path/'log'))]
    assert [result[0] for result in results] == [code, code]
    assert ''.join(out + err for _, out, err in results) == said
    if case == 'turns':
        assert (tmp_path/'log').read_text().split('\n')[:-1] == [
            '0 begins', '0 ends', '1 begins', '1 ends']


def test_public_names():
    assert set(distributed.__all__) == {'shard', 'distributed_epoch', 'process_group', 'ranks',
                                        'together', 'why_stopped'}


# The command

cli = pytest.mark.skipif(find_spec('mnist_mb.cli') is None, reason='needs the command')
COMMAND = ['-m', 'mnist_mb.cli', 'train', '--data', 'drawn', '--epochs', '1', '--bs', '501']


@cli
@pytest.mark.slow
def test_the_command_prints_under_torchrun_what_it_prints_alone(start, tmp_path):
    one = ended(start(*COMMAND, '--save', str(tmp_path/'one.pt')))
    two = ended(start(*TORCHRUN, free_port(), *COMMAND, '--save', str(tmp_path/'two.pt'),
                      '--plot', str(tmp_path/'two.png')))
    assert one[0] == two[0] == 0, one[2] + two[2]
    told = [[line.split()[0] for line in run[1].splitlines()] for run in (one, two)]
    assert told[0][:4] == ['data:', 'epoch', 'test', 'weights:']
    assert told[1] == [*told[0], 'learning'] and (tmp_path/'two.png').exists()
    one, two = (torch.load(tmp_path/f'{k}.pt', weights_only=True) for k in ('one', 'two'))
    assert farthest(one, two) < 5e-3  # float32, and training magnifies


@cli
@pytest.mark.slow
@pytest.mark.parametrize('args, why', [(['--data', 'nowhere'], 'nowhere'),
                                       (['--save', 'no/folder/a.pt'], 'there is no folder'),
                                       (['--epochs', '0'], 'epochs is 0')])
def test_the_command_tells_an_error_once(start, args, why):
    results = [ended(run) for run in commands(start, *COMMAND, *args)]
    said = ''.join(out + err for _, out, err in results)
    assert [code for code, *_ in results] == [1, 1]
    assert why in said and len(said.splitlines()) == 1


def commands(start, *args):
    "Two by hand, without torchrun."
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    return [start(*args, RANK=str(rank), LOCAL_RANK=str(rank), **env) for rank in (0, 1)]


@cli
@pytest.mark.slow
@pytest.mark.parametrize('killed, name, codes', [
    ([1], 'SIGKILL', (1, -signal.SIGKILL)), ([0], 'SIGKILL', (-signal.SIGKILL, 1)),
    ([0, 1], 'SIGINT', (130, 130))])
def test_the_command_loses_a_process_after_its_first_epoch(start, tmp_path, killed, name, codes):
    files = ['--save', str(tmp_path/'a.pt'), '--plot', str(tmp_path/'a.png')]
    runs = commands(start, *COMMAND[:-4], '--bs', '50', '--epochs', '10000', *files)
    while not (line := runs[0].stdout.readline()).startswith('epoch'):
        assert line or runs[0].poll() is None, runs[0].stderr.read()
    for rank in killed:
        runs[rank].send_signal(getattr(signal, name))
    results = [ended(run) for run in runs]
    assert tuple(code for code, *_ in results) == codes
    if name == 'SIGINT':
        assert results[0][2].endswith('mnist_mb_train: interrupted\n') and results[1][2] == ''
    else:
        left = 1 - killed[0]
        lines = [line for line in results[left][2].splitlines() if 'stopped' in line]
        assert len(lines) == 1 and f'rank {left} of 2 stopped' in lines[0]
    assert 'test' not in results[0][1] and not list(tmp_path.iterdir())
