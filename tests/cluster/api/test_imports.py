"""`import unlearnrec` costs nothing, and a bad configuration is told before anything heavy is loaded."""

import subprocess
import sys

import pytest

import unlearnrec

HEAVY = ("torch", "ray", "numpy", "pyarrow", "pandas", "pydantic", "yaml", "rich", "matplotlib", "scipy", "fsspec")


def loaded_after(code: str) -> set[str]:
    """Which of HEAVY a new interpreter has loaded after this code."""
    told = f"{code}\nimport sys\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing():
    assert not loaded_after("import unlearnrec; dir(unlearnrec)")


def test_a_bad_configuration_is_told_without_torch_and_ray():
    code = (
        "import unlearnrec\n"
        "try:\n    unlearnrec.Session(interactions='a', output='b', train={'epcohs': 3})\n"
        "except unlearnrec.InputError as error:\n    assert 'train.epcohs: unknown key' in str(error)\n"
        "else:\n    raise SystemExit('no error')"
    )
    assert not loaded_after(code) & {"torch", "ray", "numpy", "pyarrow", "pandas", "matplotlib", "scipy"}


def test_every_public_name_is_there():
    assert set(unlearnrec._HOMES) < set(unlearnrec.__all__) <= set(dir(unlearnrec))
    for name in unlearnrec.__all__:
        assert getattr(unlearnrec, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Sesion'"):
        unlearnrec.Sesion  # noqa: B018
