"""The package: what the notebooks export and nothing else, the rules of the house kept, and it
installs and runs from the wheel and from the source archive."""
import ast
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
MODULES = {path.stem: ast.parse(path.read_text(encoding='utf-8'))
           for path in sorted((ROOT/'mnist_mb').glob('*.py')) if not path.stem.startswith('_')}
BIN = 'Scripts' if os.name == 'nt' else 'bin'


def sh(*command, cwd, **env):
    "What the command prints; it must not fail."
    env = {k: v for k, v in (os.environ | env).items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    env['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), env['PATH']])
    ran = subprocess.run([*map(str, command)], cwd=cwd, env=env, text=True, timeout=1800,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert ran.returncode == 0, f'{command} ends with {ran.returncode}:\n{ran.stdout[-4000:]}'
    return ran.stdout


@pytest.fixture(scope='module')
def copied(tmp_path_factory):
    "A copy of the checkout, without what git ignores, for commands that write into it."
    tree = tmp_path_factory.mktemp('copied')/'mnist_mb'
    ignored = shutil.ignore_patterns(
        '.git', '_proc', '_docs', 'build', 'dist', 'data', '*.egg-info', '.*cache', '__pycache__',
        '.venv', 'venv', 'node_modules')
    return shutil.copytree(ROOT, tree, ignore=ignored)


@pytest.fixture(scope='module')
def settings():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def unlike(a, b):
    "The files that are not the same in two folders."
    found = filecmp.dircmp(a, b, ignore=['__pycache__', '.ipynb_checkpoints', '.last_checked'])
    wrong = [*found.left_only, *found.right_only]
    wrong += filecmp.cmpfiles(a, b, found.common_files, shallow=False)[1]
    return wrong + [f'{d}/{w}' for d in found.common_dirs for w in unlike(Path(a)/d, Path(b)/d)]


def test_the_package_is_what_the_notebooks_export(copied):
    for path in (copied/'mnist_mb').glob('[a-z]*.py'):
        path.unlink()  # whatever no notebook exports
    sh('nbdev_export', cwd=copied)
    assert not unlike(ROOT/'mnist_mb', copied/'mnist_mb'), 'run nbdev_export'
    for name in ('pyproject.toml', 'settings.ini'):
        assert (copied/name).read_bytes() == (ROOT/name).read_bytes()


def test_notebooks_are_clean(copied):
    sh('nbdev_clean', cwd=copied)
    assert not unlike(ROOT/'nbs', copied/'nbs'), 'run nbdev_clean'


def test_the_hooks_leave_the_tree_clean(tmp_path):
    for name in ('.gitignore', '.gitattributes', 'settings.ini'):
        shutil.copy(ROOT/name, tmp_path)
    git = 'git', '-c', 'user.name=a', '-c', 'user.email=a@example.org'
    for command in (('init', '-q'), ('add', '.'), ('commit', '-qm', 'a')):
        sh(*git, *command, cwd=tmp_path)
    sh('nbdev_install_hooks', cwd=tmp_path)
    assert 'nbdev_merge' in (tmp_path/'.gitconfig').read_text()
    assert sh('git', 'status', '--porcelain', cwd=tmp_path) == ''


def test_ruff():
    sh('ruff', 'check', '--no-cache', cwd=ROOT)


@pytest.mark.slow
def test_mypy():
    "Whoever installs the package gets its types: mnist_mb/py.typed says so."
    sh('mypy', '--cache-dir', os.devnull, cwd=ROOT)


@pytest.mark.parametrize('schema, pattern', [
    ('vendor.github-workflows', '.github/workflows/*.yaml'),
    ('vendor.dependabot', '.github/dependabot.yml'),
    ('vendor.citation-file-format', 'CITATION.cff')])
def test_files_for_github_fit_their_schemas(schema, pattern):
    files = list(ROOT.glob(pattern))
    assert files
    sh('check-jsonschema', '--builtin-schema', schema, *files, cwd=ROOT)


def test_one_version(settings):
    "It stands in settings.ini, where nbdev takes it from, and in the changelog."
    version = settings['version']
    assert f'__version__ = "{version}"' in (ROOT/'mnist_mb/__init__.py').read_text()
    changes = (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    assert re.search(r'^## (\S+)', changes, re.M)[1] == version
    for name in ('CITATION.cff', 'nbs/index.ipynb', 'setup.py', 'pyproject.toml'):
        assert version not in (ROOT/name).read_text(encoding='utf-8'), name


def test_the_license_is_there(settings):
    assert settings['license'] == 'apache2' and 'license: Apache-2.0' in (
        ROOT/'CITATION.cff').read_text()
    text = (ROOT/'LICENSE').read_text()
    assert 'Apache License' in text and 'Version 2.0, January 2004' in text and len(text) > 10_000


def test_what_github_runs():
    "The site is deployed only after all tests; the lowest and the newest versions are tested."
    deploy, tests = [yaml.safe_load((ROOT/f'.github/workflows/{name}.yaml').read_text())['jobs']
                     for name in ('deploy', 'test')]
    assert deploy['deploy']['needs'] == 'build' and deploy['build']['needs'] == 'test'
    assert deploy['test']['uses'] == './.github/workflows/test.yaml'
    assert not any(word in job for job in (*deploy.values(), *tests.values())
                   for word in ('if', 'continue-on-error'))
    bounds = tests['bounds']['strategy']['matrix']['include']
    assert {row['resolution'] for row in bounds} == {'lowest-direct', 'highest'}
    named = set(re.findall(r'tests/\w+\.py', tests['bounds']['steps'][-1]['run']))
    assert named and all((ROOT/name).is_file() for name in named)


def test_no_version_is_too_new(settings):
    assert not re.findall(r'\S*(?:<|==|~=|!=)\S*', settings['requirements'])


@pytest.mark.parametrize('path', sorted((ROOT/'nbs').glob('0[0-9]_*.ipynb')), ids=lambda p: p.stem)
def test_the_home_page_gives_an_honest_time(path):
    "200 words a minute, and 8 lines of visible code, as readers took; solutions aside."
    words = lines = 0
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        src = ''.join(cell['source'])
        if src.startswith('## The code of'):  # which nobody needs in order to go on
            break
        if cell['cell_type'] == 'markdown':
            words += len(re.sub(r'<details>.*?</details>', '', src, flags=re.S).split())
        elif not src.startswith('#| hide') and 'jupyter' not in cell['metadata']:
            lines += len([line for line in src.splitlines() if line and line[:2] != '#|'])
    home = ''.join(''.join(cell['source']) for cell in
                   json.loads((ROOT/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells'])
    said = re.search(rf'/{path.stem[3:]}\.html\) \|.*\| (\d+) \|\n', home)
    minutes = words/200 + lines/8
    assert said and abs(int(said[1]) - minutes) < 2 + 0.15*minutes, f'{minutes:.0f} minutes'


# --- the rules of the house ------------------------------------------------------------------

def from_ours(tree):
    "Pairs (module, name) of what a module imports from others of this package."
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ''
            if node.level or module.split('.')[0] == 'mnist_mb':
                module = module.removeprefix('mnist_mb').lstrip('.')
                yield from ((module or a.name, a.name) for a in node.names)
        elif isinstance(node, ast.Import):
            yield from ((a.name[9:], a.name) for a in node.names if a.name.startswith('mnist_mb.'))


def exported(tree):
    return next((ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                 and ast.unparse(node.targets[0]) == '__all__'), [])


def test_there_are_modules():
    assert {'checks', 'cli', 'data', 'files', 'nll', 'softmax', 'training'} <= MODULES.keys()


@pytest.mark.parametrize('name', MODULES)
def test_what_another_module_imports_is_offered(name):
    "It is in that module's __all__, so that no private name crosses a border."
    crossing = {(module, what) for module, what in from_ours(MODULES[name])
                if module in MODULES and what != module}
    assert not {(module, what) for module, what in crossing
                if what not in exported(MODULES[module])}


@pytest.mark.parametrize('name', MODULES)
def test_a_module_offers_at_most_twelve_names(name):
    names = exported(MODULES[name])
    assert 1 <= len(names) <= 12 and not [n for n in names if n[0] == '_']


def test_imports_run_one_way():
    uses = {name: {module for module, _ in from_ours(tree)} for name, tree in MODULES.items()}
    while free := [name for name, needed in uses.items() if not needed]:
        for name in free:
            del uses[name]
        uses = {name: needed - {*free} for name, needed in uses.items()}
    assert not uses, f'a circle, or a module that is not there: {uses}'


def is_guard(node):
    "Does this only refuse, warn or catch?"
    match node:
        case ast.If(body=[*_, ast.Raise()], orelse=[]) | ast.ExceptHandler():
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id=name))) | ast.FunctionDef(name=name):
            return name.lstrip('_').startswith('check')
    return False


def test_at_most_an_eighth_of_the_lines_are_guards():
    "A tenth is the aim; doors of files and commands make up what is above it."
    guards, lines = set(), 0
    for name, tree in MODULES.items():
        source = (ROOT/f'mnist_mb/{name}.py').read_text(encoding='utf-8')
        lines += len(re.findall(r'^ *[^\s#]', source, re.M))
        guards |= {(name, line) for node in ast.walk(tree) if is_guard(node)
                   for line in range(node.lineno, node.end_lineno + 1)}
    assert len(guards) <= lines/8, f'{len(guards)} of {lines}'


def test_at_most_sixty_raises():
    raises = {name: sum(isinstance(node, ast.Raise) for node in ast.walk(tree))
              for name, tree in MODULES.items()}
    assert sum(raises.values()) <= 60, raises


def complexity(function):
    "One way through, and one more for each branch."
    ways = 1
    for node in ast.walk(function):
        ways += isinstance(node, ast.If | ast.IfExp | ast.For | ast.While | ast.ExceptHandler
                           | ast.match_case | ast.comprehension)
        ways += len(getattr(node, 'ifs', ()))
        ways += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
    return ways


def test_at_most_two_functions_are_complex():
    ways = {f'{name}.{node.name}': complexity(node) for name, tree in MODULES.items()
            for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert len(ways) > 50
    assert sum(n > 10 for n in ways.values()) <= 2, {f: n for f, n in ways.items() if n > 10}


OPTIONAL = {'IPython', 'jax', 'keras', 'sklearn', 'threadpoolctl'}  # used where there is one


def test_what_is_imported_is_required_and_the_other_way_round(settings):
    used, owners = set(), packages_distributions()
    for tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                used |= {a.name.split('.')[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add(node.module.split('.')[0])
    used -= {*sys.stdlib_module_names, 'mnist_mb'} | OPTIONAL
    used = {owners.get(name, [name])[0].lower().replace('_', '-') for name in used}
    if any('to_markdown(' in path.read_text('utf-8') for path in (ROOT/'nbs').glob('*.ipynb')):
        used.add('tabulate')  # pandas imports it for that
    required = {re.split(r'[<>=]', r)[0] for r in settings['requirements'].split()}
    assert used == required


# --- importing and installing ----------------------------------------------------------------

QUIET = '''
import importlib, random, socket, sys, numpy as np, torch
def state():
    return (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()),
            torch.get_num_threads(), torch.get_default_dtype(), repr(torch.tensor(1/3)))
def refuse(*args, **kwargs):
    raise AssertionError('an import opened a connection')
socket.socket.connect = refuse
before = state()
for name in sys.argv[1:]:
    importlib.import_module(f'mnist_mb.{name}')
assert before == state(), 'an import changed global state'
late = {'matplotlib', 'IPython', 'sklearn', 'skimage', 'pooch', 'requests'} & set(sys.modules)
assert not late, f'imported too early: {late}'
'''


def test_importing_is_quiet(tmp_path):
    ran = subprocess.run([sys.executable, '-W', 'error::SyntaxWarning', '-c', QUIET, *MODULES],
                         cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env=os.environ | {'PYTHONPATH': str(ROOT),
                                           'MNIST_MB_CACHE': str(tmp_path/'cache')})
    assert (ran.returncode, ran.stdout) == (0, '')
    assert not list(tmp_path.iterdir()), 'an import wrote a file'


@pytest.fixture(scope='module')
def built(copied):
    "The source archive, and the wheel that is built from it."
    sh(sys.executable, '-m', 'build', cwd=copied)
    return [next((copied/'dist').glob(f'*{end}')) for end in ('.tar.gz', '.whl')]


@pytest.mark.slow
def test_what_is_in_the_archives(built):
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT/'mnist_mb').rglob('*')
               if p.is_file() and '__pycache__' not in p.parts}
    assert {'mnist_mb/py.typed', 'mnist_mb/static/pad.js', 'mnist_mb/cli.py'} <= package
    with zipfile.ZipFile(built[1]) as wheel:
        assert {n for n in wheel.namelist() if '.dist-info/' not in n} == package
        about, = (wheel.read(n).decode() for n in wheel.namelist() if n.endswith('/METADATA'))
    for line in ('Project-URL: Source, h', 'Project-URL: Issues, h', 'Project-URL: Changelog, h',
                 'Classifier: Programming Language :: Python :: 3.14\n'):
        assert line in about
    assert not re.findall('src="(?!https:)', about), 'a picture that PyPI would not find'
    with tarfile.open(built[0]) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert package | {'settings.ini', 'LICENSE', 'README.md', 'constraints.txt',
                      'CHANGELOG.md'} <= names


@pytest.mark.slow
def test_the_wheel_installs_and_trains_elsewhere(built, tmp_path):
    "Beside the packages of this environment, and `pip check` finds all that it requires there."
    venv.create(tmp_path/'env')
    nowhere = tmp_path/'nowhere'
    nowhere.mkdir()
    bin = tmp_path/'env'/BIN
    python, train = bin/'python', bin/'mnist_mb_train'
    where = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    site = Path(sh(python, '-c', where, cwd=nowhere).strip())
    (site/'these.pth').write_text(sysconfig.get_path('purelib'))
    pip = sys.executable, '-m', 'pip', '--python', python
    install = *pip, 'install', '-q', '--no-deps'
    sh(*install, built[1], cwd=nowhere)
    sh(*pip, 'check', cwd=nowhere)
    env = {'MNIST_MB_CACHE': str(tmp_path/'cache'), 'OMP_NUM_THREADS': '1'}
    for options in ([], ['-U', 'fastcore']):  # with the tested version, then the newest
        if options:
            sh(*install, *options, cwd=nowhere)
        said = sh(train, '--data', 'drawn', '--epochs', '1', cwd=nowhere, **env)
        assert re.search(r'^data: drawn, .*\n(.*\n)*test accuracy 0\.9', said, re.M), said
    where = 'import sys, importlib as i\nfor n in sys.argv[1:]: print(i.import_module(n).__file__)'
    files = sh(python, '-c', where, *(f'mnist_mb.{name}' for name in MODULES), cwd=nowhere, **env)
    assert len(files.split()) == len(MODULES)
    assert all(str(tmp_path/'env') in file for file in files.split())
    assert not list(nowhere.iterdir()), 'the command leaves something behind'
