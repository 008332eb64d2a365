"""How many calls a second can be paid for: `make bench-budgets`, `python -m bench.budgets`.

A call is two transactions: reserve and settle. Three ways are measured in turns, with the same number of clients, on a
PostgreSQL of their own that writes to disk as the product's does:

- the ORM, as it is usually done: `select_for_update`, compare, save, create;
- `pgbench` with the same two transactions in plain, prepared SQL: what the machine can do;
- Parley's `budgets.reserve` and `budgets.settle`, in as many processes as clients, each with one psycopg connection.

The scopes are those of the product: one person's day; the days of 200 people; and for the same 200 people the caps of
their conversations and the installation's day on top, which all of them share.

A row stays locked until its commit is on the disk, so on one row it is the disk that counts: a flush is timed, too. The
clients share the machine with the database, and each is synchronous, as a page that sends a message
is. A call is one statement for `reserve` and one for `settle`, which commit by themselves; in the product they are part
of the transactions that send a message and end its reply, and cost no commit of their own.
Writes bench/results/budgets.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.stack import children_of, cpu_of, empty_data
from chatapp.embedded import paths
from chatapp.embedded.postgres import Postgres, binary

RESULTS = Path(__file__).parent / "results" / "budgets.json"
PEOPLE = 200
AMOUNT, CHARGED = 1_000, 350  # nano-USD, by a price of one for each token
INPUT_TOKENS, MAX_TOKENS, OUTPUT_TOKENS = 100, 900, 250


@dataclass(frozen=True, kw_only=True)
class Workload:
    name: str
    people: int
    scopes: int
    target: int  #: calls a second
    clients: int  #: few on a row that all wait for; many where commits can share a flush


WORKLOADS = (
    Workload(name="one scope, one row", people=1, scopes=1, target=1_000, clients=4),
    Workload(name="one scope, 200 rows", people=PEOPLE, scopes=1, target=5_000, clients=8),
    Workload(name="three scopes", people=PEOPLE, scopes=3, target=600, clients=4),
)
RATIO = 0.5  # of pgbench, at least


@contextmanager
def database() -> Iterator[int]:
    """An empty database of the product on disk, with Django set up for it; gives the server's process id."""
    with ExitStack() as tidy:
        data = empty_data(tidy, "bench")
        server = Postgres(data)
        tidy.callback(server.stop)
        server.start()
        server.wait_ready()
        os.environ.pop("DATABASE_URL", None)
        os.environ |= {
            "DATA_DIR": str(data),
            "DJANGO_SETTINGS_MODULE": "chatapp.settings",
            "SECRET_KEY": "only for benchmarks",
            "DAILY_LIMIT": "1000000",
        }
        subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity=0"], check=True)
        import django

        django.setup()
        assert server.process is not None
        yield server.process.pid


def conversation_id(user_id: int) -> UUID:
    return UUID(f"00000000-0000-0000-0000-{user_id:012}")


def prepare() -> None:
    """People with a conversation each, and their days opened."""
    from conversations.models import Conversation, User

    users = [User(pk=n, email=f"payer{n}@example.org", password="!") for n in range(1, PEOPLE + 1)]
    User.objects.bulk_create(users)
    Conversation.objects.bulk_create(
        [Conversation(pk=conversation_id(user.pk), user=user, model="bench") for user in users]
    )


def open_scopes(workload: Workload) -> None:
    """Give the scopes of a workload their rows. The third one cannot be taken back, so its workload comes last."""
    from django.conf import settings
    from django.db import connection, transaction

    from conversations import budgets

    if workload.scopes == 3:
        settings.CONVERSATION_CAP = settings.INSTALLATION_DAILY_LIMIT = settings.DAILY_LIMIT
    for user_id in range(1, workload.people + 1):
        with transaction.atomic(), connection.cursor() as cursor:
            held = budgets.reserve(cursor, ask(workload, user_id))
            assert held is not None
            budgets.void(cursor, hold_id=held.hold_id)
    connection.close()


def ask(workload: Workload, user_id: int) -> Any:
    from conversations.budgets import Ask

    return Ask(
        user_id=user_id,
        conversation_id=conversation_id(user_id) if workload.scopes == 3 else None,
        model="bench",
        price=price(),
        input_tokens=INPUT_TOKENS,
        max_tokens=MAX_TOKENS,
    )


def price() -> Any:
    from conversations.prices import MILLION, Price, Rates

    return Price(
        model="bench", rates=Rates(input=MILLION, cached=MILLION, cache_write=MILLION, output=MILLION)
    )


# --- Three ways to pay ------------------------------------------------------------------------------------------


def pay_by_budgets(workload: Workload) -> Callable[[], None]:
    import psycopg

    from conversations import budgets
    from conversations.database import connection_arguments
    from conversations.llm.types import Usage

    cursor = psycopg.connect(**connection_arguments(), autocommit=True).cursor()
    asks = [ask(workload, user_id) for user_id in range(1, workload.people + 1)]
    usage, rates = Usage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS), price()

    def pay() -> None:
        held = budgets.reserve(cursor, random.choice(asks))
        assert held is not None
        budgets.settle(cursor, hold_id=held.hold_id, usage=usage, usage_reported=True, price=rates)

    return pay


def pay_by_orm(workload: Workload) -> Callable[[], None]:
    from django.db import transaction
    from django.utils import timezone

    from conversations.models import Budget, Hold, LedgerEntry

    snapshot = price().snapshot()
    subjects = [(str(n), str(conversation_id(n))) for n in range(1, workload.people + 1)]

    def locked(user: str, conversation: str) -> list[Budget]:
        scopes = [("user", user)]
        if workload.scopes == 3:
            scopes = [("conversation", conversation), *scopes, ("installation", "")]
        rows = Budget.objects.select_for_update()
        return [rows.get(scope=scope, subject=subject) for scope, subject in scopes]

    def pay() -> None:
        names = random.choice(subjects)
        with transaction.atomic():
            budgets = locked(*names)
            for budget in budgets:
                assert budget.limit is None or budget.spent + budget.held + AMOUNT <= budget.limit
                budget.held += AMOUNT
                budget.save()
            hold = Hold.objects.create(
                purpose="reply",
                user_id=int(names[0]),
                model="bench",
                amount=AMOUNT,
                input_tokens=INPUT_TOKENS,
                max_tokens=MAX_TOKENS,
                price=snapshot,
                lease_expires_at=timezone.now(),
            )
        with transaction.atomic():
            hold = Hold.objects.select_for_update().get(pk=hold.pk, state=Hold.State.HELD)
            hold.state, hold.resolved_at = Hold.State.SETTLED, timezone.now()
            hold.save()
            for budget in locked(*names):
                budget.held -= AMOUNT
                budget.spent += CHARGED
                budget.save()
            LedgerEntry.objects.create(
                kind="settled",
                hold_id=hold.pk,
                user_id=hold.user_id,
                held=AMOUNT,
                charged=CHARGED,
                price=snapshot,
            )

    return pay


def pay_for(seconds: float, way: Callable[[Workload], Callable[[], None]], workload: Workload) -> int:
    """Pay calls one after the other, on a connection of this process; returns how many."""
    pay = way(workload)
    for _ in range(10):  # until the statements are prepared
        pay()
    end, paid = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        pay()
        paid += 1
    return paid


def in_processes(
    way: Callable[[Workload], Callable[[], None]], workload: Workload, clients: int, seconds: float
) -> float:
    """Calls a second of so many clients."""
    with multiprocessing.get_context("fork").Pool(clients) as pool:
        paid = pool.starmap(pay_for, [(seconds, way, workload)] * clients, chunksize=1)
    return sum(paid) / seconds


#: As the product keeps it, without the colons that pgbench takes for variables.
SNAPSHOT = json.dumps(["bench", *["cache_write 1000000"] * 4, "is_free false", "source openai"] * 2)
FITS = '("limit" IS NULL OR spent + held + 1000 <= "limit" + extra)'
CAP = "scope = 'conversation' AND subject = '00000000-0000-0000-0000-' || lpad(:n::text, 12, '0')"
PERSON = "scope = 'user' AND subject = :n::text"
INSTALLATION = "scope = 'installation' AND subject = ''"


def script(workload: Workload) -> str:
    """The same two transactions for pgbench."""
    scopes = [(PERSON, "person")]
    if workload.scopes == 3:
        scopes = [(CAP, "cap"), *scopes, (INSTALLATION, "installation")]
    reserve = "".join(
        f"UPDATE budgets SET held = held + 1000 WHERE {where} AND {FITS} RETURNING id AS {name} \\gset\n"
        for where, name in scopes
    )
    settle = "".join(
        f"UPDATE budgets SET held = held - 1000, spent = spent + 350 WHERE id = :{name};\n"
        for _, name in scopes
    )
    ids = ", ".join(f":{name}" for _, name in scopes)
    columns = ", ".join(
        {
            "cap": "conversation_budget_id",
            "person": "user_budget_id",
            "installation": "installation_budget_id",
        }[n]
        for _, n in scopes
    )
    return f"""\\set n random(1, {workload.people})
BEGIN;
{reserve}INSERT INTO budget_holds (id, purpose, user_id, model, amount, input_tokens, max_tokens, price,
    lease_expires_at, {columns})
    VALUES (uuidv7(), 'reply', :n, 'bench', 1000, 100, 900, '{SNAPSHOT}', now() + interval '900 s', {ids})
    RETURNING id AS hold \\gset
COMMIT;
BEGIN;
UPDATE budget_holds SET state = 'settled', resolved_at = now() WHERE id = :hold AND state = 'held';
{settle}INSERT INTO ledger_entries (id, kind, purpose, hold_id, user_id, model, held, charged, input_tokens,
    output_tokens, price, day, {columns})
    VALUES (uuidv7(), 'settled', 'reply', :hold, :n, 'bench', 1000, 350, 100, 250, '{SNAPSHOT}', current_date, {ids});
COMMIT;
"""


def by_pgbench(workload: Workload, clients: int, seconds: float) -> float:
    """Calls a second of the plain statements."""
    from conversations.database import connection_arguments

    where = connection_arguments()
    written = paths.PROJECT / ".cache" / "bench" / f"{os.getpid()}.sql"
    written.write_text(script(workload), encoding="utf-8")
    command = [str(binary("pgbench")), "-n", "-M", "prepared", "-c", str(clients), "-j", "2"]
    command += ["-T", str(max(1, round(seconds))), "-f", str(written)]
    command += ["-h", where["host"], "-U", where["user"], where["dbname"]]
    environment = os.environ | {"PGPASSWORD": where["password"]}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        written.unlink()
    found = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return float(found.group(1))


# --- The run ----------------------------------------------------------------------------------------------------


def measure(workload: Workload, server: int, *, clients: int, seconds: float, rounds: int) -> dict[str, Any]:
    open_scopes(workload)
    ways: dict[str, Callable[[], float]] = {
        "orm": lambda: in_processes(pay_by_orm, workload, clients, seconds),
        "pgbench": lambda: by_pgbench(workload, clients, seconds),
        "parley": lambda: in_processes(pay_by_budgets, workload, clients, seconds),
    }
    figures: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            before = cpu_of_server(server)
            figures[name].append(run())
            cpu[name].append((cpu_of_server(server) - before) / max(1.0, figures[name][-1] * seconds))
    middle = {name: statistics.median(found) for name, found in figures.items()}
    ratio = middle["parley"] / middle["pgbench"]
    return {
        "workload": workload.name,
        "clients": clients,
        "calls_a_second": {name: round(found) for name, found in middle.items()},
        "rounds": {name: [round(one) for one in found] for name, found in figures.items()},
        "postgres_cpu_us_a_call": {
            name: round(1e6 * statistics.median(found)) for name, found in cpu.items()
        },
        "ratio_to_pgbench": round(ratio, 2),
        "target": workload.target,
        "met": middle["parley"] >= workload.target and ratio >= RATIO,
    }


def flush_ms(place: Path) -> float:
    """How long the disk takes to keep a page of a file that is there already, in the middle of 50 tries."""
    took = []
    page = bytes(8192)
    written = os.open(place / "flush", os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        os.pwrite(written, page * 50, 0)
        os.fsync(written)
        for number in range(50):
            start = time.perf_counter()
            os.pwrite(written, page, number * len(page))
            os.fdatasync(written)
            took.append(time.perf_counter() - start)
    finally:
        os.close(written)
    return round(1000 * statistics.median(took), 2)


def cpu_of_server(server: int) -> float:
    return cpu_of(server) + sum(cpu_of(pid) for pid in children_of(server))


def check_sums() -> None:
    """What was paid is what the ledger says: a benchmark of wrong sums says nothing."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM budgets b WHERE b.scope = 'user' AND b.held <> (
                SELECT coalesce(sum(amount), 0) FROM budget_holds h
                WHERE h.state = 'held' AND h.user_budget_id = b.id)
            """
        )
        assert cursor.fetchone() == (0,), "a budget holds what no hold explains"
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, help="of every workload")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args()
    seconds, rounds = (2.0, 1) if options.quick else (options.seconds, options.rounds)
    found = []
    with database() as server:
        prepare()
        flush = flush_ms(paths.PROJECT / ".cache" / "bench" / str(os.getpid()))
        print(f"A flush takes {flush} ms.")
        heading = ("calls a second", "ORM", "pgbench", "Parley", "ratio", "target")
        print(f"{heading[0]:24}{heading[1]:>9}{heading[2]:>9}{heading[3]:>9}{heading[4]:>8}{heading[5]:>9}")
        for workload in WORKLOADS:
            figures = measure(
                workload, server, clients=options.clients or workload.clients, seconds=seconds, rounds=rounds
            )
            found.append(figures)
            rates = figures["calls_a_second"]
            print(
                f"{workload.name:24}{rates['orm']:>9,}{rates['pgbench']:>9,}{rates['parley']:>9,}"
                f"{figures['ratio_to_pgbench']:>8}{workload.target:>9,}{'' if figures['met'] else '  missed'}",
                flush=True,
            )
        check_sums()
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}
    load = {"flush_ms": flush, "seconds": seconds, "rounds": rounds}
    RESULTS.write_text(
        json.dumps({"machine": machine, **load, "results": found}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
