# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Builds sdist and wheel into dist/, and checks that each installs into an empty environment and has what it should.

Then tests run on the installed wheel, in a copy of the sdist from which the package itself is gone: those of its core,
or what the command line says, in the words of pytest.
"""
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / 'dist'
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'bbb_layers' / '__init__.py').read_text(encoding='utf-8')).group(1)
#: The tests that run where the command line names none.
CORE = [f'tests/{name}.py' for name in (
    'layers/test_layers', 'training/test_loss', 'checkpoint/test_checkpoint', 'native/test_native',
    '_mxnet/test_import_hook', 'prediction/test_predict')]
#: What the installed package must have, and be, in a process that does not see this folder.
PROBE = '''
import pathlib, sys
import bbb_layers
folder = pathlib.Path(bbb_layers.__file__).parent
assert pathlib.Path(sys.prefix) in folder.parents, folder
assert bbb_layers.__version__ == sys.argv[1], bbb_layers.__version__
missing = [name for name in sys.argv[2:] if not (folder / name).is_file()]
assert not missing, missing
'''


def sources(*folders):
    """The files of ``folders`` that are written by hand."""
    suffixes = ('.py', '.h', '.cc', '.md', '.rst', '.ipynb', '.svg', '.css')
    return sorted(path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob('*')
                  if path.suffix in suffixes or path.name == 'py.typed')


def check(archive, names, wanted):
    """Exit with what is wanted and not among the names of the files in the archive."""
    missing = sorted(set(wanted) - set(names))
    if missing:
        sys.exit('{}: must have {}'.format(archive.name, ', '.join(missing)))
    print('%s: %d files, %d kB' % (archive.name, len(names), archive.stat().st_size / 1000))


def run(*command, **kwargs):
    subprocess.run([str(part) for part in command], check=True, **kwargs)


def main():
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, '-m', 'build', ROOT, '--outdir', DIST, stdout=subprocess.DEVNULL)
    (wheel,), (sdist,) = DIST.glob('*.whl'), DIST.glob('*.tar.gz')
    package = sources('bbb_layers')
    check(wheel, zipfile.ZipFile(wheel).namelist(), package)
    with tarfile.open(sdist) as tar:
        names = [name.partition('/')[2] for name in tar.getnames()]
    check(sdist, names, package + sources('tests', 'examples', 'docs') + [
        'LICENSE', 'README.md', 'CHANGELOG.md', 'CITATION.cff', 'CONTRIBUTING.md', 'Makefile', 'setup.py',
        'pyproject.toml', '.ci/run'])
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / 'bin' / 'python'
        for archive in (wheel, sdist):
            run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', archive)
            run(python, '-c', PROBE, VERSION, *[name[len('bbb_layers/'):] for name in package], cwd=folder)
            run(python, '-m', 'pip', 'uninstall', '--quiet', '--yes', 'bbb-layers')
            print(f'{archive.name}: installs, and imports')
        run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', f'{wheel}[test]')
        with tarfile.open(sdist) as tar:
            tar.extractall(folder)
        copy = Path(folder) / sdist.name[:-len('.tar.gz')]
        for part in ('bbb_layers', 'bbb_layers.egg-info'):
            shutil.rmtree(copy / part)
        run(python, '-c', PROBE, VERSION, cwd=copy)
        run(python, '-m', 'pytest', '-q', '-n', 'auto', '--durations=0', *(sys.argv[1:] or CORE), cwd=copy)


if __name__ == '__main__':
    main()
