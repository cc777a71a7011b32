"""Tests of experiments.settings.user_code: modules that a command line names."""

import os
import sys

import pytest

from experiments.launch import jobs
from experiments.messages.errors import SettingsError
from experiments.runner import failures
from experiments.settings import user_code

FILES = {
    "my_parts.py": "import beside\n",
    "beside.py": "",
    "other/my_priors.py": "import beside_priors\n",
    "other/beside_priors.py": "",
    "package/__init__.py": "",
    "package/inner.py": "from package import sibling\n",
    "package/sibling.py": "",
    "broken_package/__init__.py": "\n1 / 0\n",
    "broken_package/inner.py": "",
    "no_package/inner_of_none.py": "",
    "no_package/divides_by_zero.py": "1 / 0\n",
    "no_python.py": "x = = 3\n",
    "no_text.py": b"\xff\xfe\0",
    "lacks.py": "import json\n\nimport no_such_module\n",
    "calls.py": "import called_by_parts\n\ncalled_by_parts.call()\n",
    "called_by_parts.py": "def call():\n    return undefined\n",
    "raises.py": "raise ValueError('alpha is 3: too many.')\n",
    "two_lines.py": "raise RuntimeError('no\\nluck')\n",
    "exits.py": "import sys\nsys.exit('bye')\n",
    "json.py": "raise SystemExit('the wrong one')\n",
    "my.parts.py": "",
    "text.txt": "",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Makes a folder with these files the current one."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(user_code, "_parts", [])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("my_parts", "my_parts"),
        ("my_parts.py", "my_parts"),
        ("./my_parts.py", "my_parts"),
        ("other/my_priors.py", "my_priors"),
        ("{place}/other/my_priors.py", "my_priors"),
        ("package.inner", "package.inner"),
        ("package", "package"),
        ("no_package.inner_of_none", "no_package.inner_of_none"),
    ],
)
def test_a_module_is_imported_by_its_name_or_file(place, name, module):
    given = name.format(place=place)
    assert module not in sys.modules
    user_code.import_parts([given, given])
    assert sys.modules[module].__file__.startswith(str(place))
    assert user_code.parts_options() == [f"--parts={given}"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "there is no such module"),
        ("nowhere", "there is no such module"),
        ("nowhere.py", "there is no such file"),
        ("package.nothing", "there is no such module"),
        ("package/inner", "there is no such module"),
        ("my_parts.inner", "there is no such module"),
        (".my_parts", "there is no such module"),
        ("my_parts..inner", "there is no such module"),
        ("no_package", "there is no such module"),
        ("text.txt", "there is no such module"),
        ("sys", "there is no such module"),
        ("folder.py", "there is no such file"),
        (".py", "there is no such module"),
        ("json.py", "an import of 'json' finds "),
        ("my.parts.py", "an import of 'my.parts' finds nothing, so rename the file"),
        ("no_python.py", ": SyntaxError: invalid syntax (no_python.py, line 1)"),
        ("no_text.py", ": SyntaxError: "),
        ("lacks", ", line 3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("calls.py", ", called_by_parts.py line 2: NameError: name 'undefined' is not"),
        ("raises.py", ", line 1: alpha is 3: too many."),
        ("two_lines.py", ", line 1: RuntimeError: no\nluck"),  # Joined when printed.
        ("exits", ", line 2: SystemExit: bye"),
        ("broken_package", ", line 2: ZeroDivisionError"),
        ("broken_package.inner", ", line 2: ZeroDivisionError"),
        ("no_package.divides_by_zero", ", line 1: ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(place, name, reason):
    del place
    with pytest.raises(SettingsError) as caught:
        user_code.import_parts([name])
    assert str(caught.value).startswith(f"--parts is {name!r}")
    assert reason in str(caught.value)
    assert user_code.parts_options() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be read")
def test_an_unreadable_module_is_refused(place):
    (place / "my_parts.py").chmod(0)
    with pytest.raises(SettingsError, match="PermissionError"):
        user_code.import_parts(["my_parts.py"])


def test_further_commands_are_given_the_same_parts(place):
    user_code.import_parts(["my_parts.py"])
    assert failures.replay_command("model", place).endswith(" --parts=my_parts.py")
    command = jobs.command(["--parts=my_parts.py", "--only=3"], "0")
    assert "--parts=my_parts.py" in command
