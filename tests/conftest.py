"""Sets up Django and gives the tests a PostgreSQL and a Valkey of their own.

The settings are read when Django is set up, so this happens here and not in a fixture. With DATABASE_URL or REDIS_URL
set, those are used. When pytest hands the tests out to several processes (`-n 2`), each of those has its own services.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import django
import pytest
from django.db import connection
from hypothesis import settings as hypothesis_settings
from pytest_django.plugin import DjangoDbBlocker

from chatapp.embedded import folder, paths
from chatapp.embedded.model_server import ModelServer
from chatapp.embedded.postgres import Postgres
from chatapp.embedded.service import Service
from chatapp.embedded.valkey import Valkey

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

TEST_DATA = paths.PROJECT / ".cache" / "tests"
data = TEST_DATA / str(os.getpid())
#: This process is handed its tests by another.
IS_ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
running = ExitStack()


def make_place() -> None:
    if not IS_ONE_OF_SEVERAL:  # they begin together, and must not take each other's for abandoned
        remove_abandoned()
    folder.make_data_dir(data)
    running.callback(shutil.rmtree, data, ignore_errors=True)
    running.enter_context(folder.locked(data))


def start_services() -> None:
    runtime = paths.make_runtime_dir(data)
    running.callback(shutil.rmtree, runtime, ignore_errors=True)
    services: list[Service] = []
    if not os.environ.get("REDIS_URL"):
        services.append(Valkey(data))
    if not os.environ.get("DATABASE_URL"):
        services.append(Postgres(data, durable=False))
    for service in services:
        running.callback(service.stop)
        service.start()
    for service in services:
        service.wait_ready()


def remove_abandoned() -> None:
    """Remove the folders of test runs that were killed; those of running ones are locked."""
    for found in TEST_DATA.glob("*"):
        with suppress(OSError, paths.EmbeddedError), folder.locked(found):
            shutil.rmtree(paths.runtime_dir(found), ignore_errors=True)
            shutil.rmtree(found)


# A busy machine is no failure: what must be fast is measured by the benchmarks.
hypothesis_settings.register_profile("parley", deadline=None)
hypothesis_settings.load_profile("parley")


#: Folders whose tests watch real processes by the clock: never two of them at once.
BY_THE_CLOCK = {"browser", "celery", "chaos", "embedded", "operations", "product"}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") != "no" and not IS_ONE_OF_SEVERAL:
        # This process only hands out the tests. Those that run them begin with its environment, and have their own.
        del os.environ["DATA_DIR"], os.environ["DJANGO_SETTINGS_MODULE"]
        return
    try:
        start_services()
    except BaseException:
        running.close()
        raise


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "LoadScopeScheduling":
    """What one process runs as a whole: a file, because its tests share what is made for them."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "by the clock" if Path(file).parts[1] in BY_THE_CLOCK else file

    config.option.loadscopereorder = False  # it would leave the longest for the end: it is alone in its file
    return ByFile(config, log)


def pytest_unconfigure() -> None:
    running.close()


@pytest.fixture(scope="session")
def local_model() -> Iterator[paths.LocalModel]:
    """The real local model, for the tests that ask for it."""
    server = ModelServer(data)
    server.start()
    server.wait_ready()
    found = paths.local_model(data)
    assert found is not None
    yield found
    server.stop()


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """The ledger refuses to be emptied, and emptying is how a `TransactionTestCase` tidies up after itself."""
    from tests.emptying import empty_quickly

    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ledger_entries DISABLE TRIGGER ledger_is_not_emptied")
    empty_quickly()


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    """The catalogue keeps what it read for seconds: longer than a test and its rows live."""
    from conversations.catalog import forget_catalog

    forget_catalog()


os.environ["DATA_DIR"] = str(data)
os.environ["DJANGO_SETTINGS_MODULE"] = "chatapp.settings"
os.environ.setdefault("SECRET_KEY", "only for tests")
try:
    make_place()
    django.setup()
except BaseException:
    running.close()
    raise
