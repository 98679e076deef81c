"""nbval for the committed notebooks (`pytest --nbval notebooks`). Plain tests are configured in tests/conftest.py."""

import pytest

collect_ignore_glob = ["*.failed.ipynb"]


def pytest_configure(config: pytest.Config) -> None:
    """Compare floats with a tolerance, and run kernels as `pipeline.nbrun` does."""
    if config.getoption("nbval", default=False):
        from pipeline.checkout import set_environment
        from pipeline.nbval_close import compare_approximately

        set_environment()
        compare_approximately()
