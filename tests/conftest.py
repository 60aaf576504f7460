"""What several test files share: the real MNIST where there is one, and one thread for PyTorch."""
import importlib
import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from running import start

ROOT = Path(__file__).parent.parent
RUNS = pytest.StashKey()


def pytest_collection_modifyitems(items):
    "What waits for the notebooks comes last."
    items.sort(key=lambda item: 'notebooks' in item.fixturenames)


def pytest_collection_finish(session):
    "The notebooks that are asked for run beside all other tests, from the start."
    paths = {item.callspec.params['path'] for item in session.items
             if 'notebooks' in item.fixturenames}
    if paths and not session.config.option.collectonly:
        session.config.stash[RUNS] = start(paths)


def pytest_sessionfinish(session):
    for future in session.config.stash.get(RUNS, {}).values():
        future.cancel()


@pytest.fixture(scope='session')
def notebooks(pytestconfig):
    "Path of a notebook: a future of the notebook as it ran, and of its exercises."
    return pytestconfig.stash[RUNS]


@pytest.fixture(scope='session')
def mnist():
    "MNIST from the folder that $MNIST_MB_DATA names; the test is skipped where it names none."
    if not os.environ.get('MNIST_MB_DATA'):
        pytest.skip('needs the real MNIST: set MNIST_MB_DATA to a folder that has it')
    from mnist_mb.data import load_mnist
    return load_mnist(download=False)


@pytest.fixture(scope='session')
def drawn():
    "The digits that the computer draws, for tests that need some data, whichever."
    from mnist_mb.data import get_data
    return get_data('drawn')


@pytest.fixture(scope='session')
def js(tmp_path_factory):
    "A copy of what the JavaScript checks need, with their packages from npm."
    for tool in ('node', 'npm'):
        if shutil.which(tool) is None:
            pytest.skip(f'needs {tool}')
    tmp = tmp_path_factory.mktemp('js')
    shutil.copytree(ROOT/'tests/js', tmp/'tests/js', ignore=shutil.ignore_patterns('node_modules'))
    shutil.copytree(ROOT/'mnist_mb/static', tmp/'mnist_mb/static')
    quiet = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
    run = subprocess.run(['npm', 'ci', *quiet, f'--cache={tmp}/cache'], cwd=tmp/'tests/js',
                         capture_output=True, text=True, timeout=1800)  # only a hang takes so long
    if run.returncode and re.search('ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT', run.stderr):
        pytest.skip(f"needs npm's registry, which can't be reached: {run.stderr[-200:]}")
    assert run.returncode == 0, run.stderr[-1000:]
    return tmp/'tests/js'


@pytest.fixture(scope='session')
def chromium():
    found = [*map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))]
    if not any(found):
        pytest.skip('needs Chromium')
    return next(filter(None, found))


@pytest.fixture
def user():
    "A folder of an ordinary user, who is not allowed everything as root is."
    if os.name == 'nt':
        pytest.skip('Windows has other permissions')
    for name in ('pooch', 'requests', 'encodings.idna'):  # which that user may not read
        importlib.import_module(name)
    torch.save({}, content := io.BytesIO())
    torch.load(io.BytesIO(content.getvalue()), weights_only=True)  # imports more
    root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as tmp:
        os.chmod(tmp, 0o777)
        if root:
            os.seteuid(65534)
        try:
            if not os.access(ROOT/'mnist_mb/cli.py', os.R_OK, effective_ids=True):
                pytest.skip('needs a checkout that an ordinary user may read')
            yield Path(tmp)
        finally:
            if root:
                os.seteuid(0)


@pytest.fixture(autouse=True)
def one_thread():
    "Tests share the machine with others, and a test that changes the number leaves no trace."
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
