"""Gives the tests a PostgreSQL and a Valkey of their own, then sets up Django.

The settings are read when Django is set up, so this happens here and not in a fixture. With DATABASE_URL or REDIS_URL
set, those are used.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress

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

TEST_DATA = paths.PROJECT / ".cache" / "tests"
data = TEST_DATA / str(os.getpid())
running = ExitStack()


def start_services() -> None:
    remove_abandoned()
    folder.make_data_dir(data)
    running.callback(shutil.rmtree, data, ignore_errors=True)
    running.enter_context(folder.locked(data))
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
    start_services()
    django.setup()
except BaseException:
    running.close()
    raise
