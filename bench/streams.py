"""How many replies one web process carries, and what each costs: `make bench-streams`, `python -m bench.streams`.

Client, provider, PostgreSQL, Valkey and the web process share the machine. Each figure is taken beside the same request
made directly to the provider and through a relay without a database. Writes bench/results/streams.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.stack import Peak, Stack, make_viewers, running, settle, watch

RESULTS = Path(__file__).parent / "results"
SHORT_REPLY = {"deltas": 100, "pace": 20}  # 2 s
LONG_REPLY = {"deltas": 500, "pace": 40}  # 20 s at 25 tokens a second
READS = 1.0  # seconds that a person looks at a page before sending, at least
LATER_SENDS = 3  # into a conversation that has been sent to before
IN_PACE = 1.2  # a reply may take so many times its ideal
Sends = list[dict[str, Any]]


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else float("nan")


def good(sends: Sends) -> Sends:
    return [send for send in sends if "error" not in send]


def milliseconds(values: Sequence[float], percent: int) -> float:
    return round(percentile(values, percent) * 1000, 2)


def first_tokens(sends: Sends) -> list[float]:
    return [send["first"] for send in good(sends)]


def in_flight(sends: Sends) -> int:
    """The most replies that were on their way at one moment."""
    moves = [(s["started"] + s["first"], 1) for s in good(sends)] + [(s["ended"], -1) for s in good(sends)]
    now = most = 0
    for _, step in sorted(moves):
        now += step
        most = max(most, now)
    return most


@contextmanager
def counted(stack: Stack) -> Iterator[dict[str, float]]:
    """Seconds of CPU that web, PostgreSQL and Valkey took meanwhile."""
    before = stack.cpu()
    spent: dict[str, float] = {}
    yield spent
    after = stack.cpu()
    spent |= {part: after[part] - before[part] for part in after}
    spent["all"] = sum(spent.values())


def measure_first_token(
    stack: Stack, viewers: list[dict[str, Any]], *, sends: int, rounds: int
) -> dict[str, Any]:
    """Direct, relay and product in turns, so that whatever else the machine does meets all three."""
    targets = {"direct": stack.provider_port, "relay": stack.relay_port, "parley": stack.web_port}
    found: dict[str, Sends] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, port in targets.items():
            who = viewers if name == "parley" else [{} for _ in viewers]
            found[name] += watch(port, who, deltas=20, pace=5, sends=sends, spread=0.02, pause=0.05)
    figures: dict[str, Any] = {"streams": len(viewers), "sends": len(found["parley"])}
    direct = {percent: milliseconds(first_tokens(found["direct"]), percent) for percent in (50, 95)}
    for name, sent in found.items():
        figures[name] = {"errors": len(sent) - len(good(sent))}
        for percent in (50, 95):
            value = milliseconds(first_tokens(sent), percent)
            figures[name][f"p{percent}_ms"] = value
            figures[name][f"added_p{percent}_ms"] = round(value - direct[percent], 2)
    figures["post_p50_ms"] = milliseconds([send["post"] for send in good(found["parley"])], 50)
    return figures


def measure_message(stack: Stack, viewers: list[dict[str, Any]], *, sends: int) -> dict[str, Any]:
    """CPU of a message with a reply of 20 deltas, all processes counted."""
    with counted(stack) as spent:
        sent = watch(stack.web_port, viewers, deltas=20, pace=20, sends=sends, spread=0.02)
    per_message = {part: round(seconds / len(sent) * 1000, 2) for part, seconds in spent.items()}
    return {"messages": len(sent), "errors": len(sent) - len(good(sent)), "cpu_ms": per_message}


def measure_pace(
    stack: Stack, viewers: list[dict[str, Any]], *, deltas: int, pace: int, spread: float
) -> dict[str, Any]:
    """A wave of so many viewers, their sends spread evenly over `spread` seconds.

    A reply is in pace when it takes at most 1.2 times its ideal from its first word to its end; how long the first word
    takes is a figure of its own.
    """
    ideal = deltas * pace / 1000
    with Peak.of(stack) as peak, counted(stack) as spent:
        began = time.perf_counter()
        sent = watch(stack.web_port, viewers, deltas=deltas, pace=pace, sends=1, spread=spread / len(viewers))
        seconds = time.perf_counter() - began
    done = good(sent)
    slowness = [(send["whole"] - send["first"]) / ideal for send in done]
    held = [times for times in slowness if times <= IN_PACE]
    delivered = len(done) * deltas
    return {
        "streams": len(viewers),
        "ideal_s": ideal,
        "replies": len(sent),
        "errors": len(sent) - len(done),
        "first_error": next((send["error"] for send in sent if "error" in send), ""),
        "in_pace": len(held),
        "held": len(held) == len(sent),
        "most_at_once": in_flight(sent),
        "slowest": round(max(slowness, default=0.0), 3),
        "slowest_with_send": round(max((send["whole"] for send in done), default=0.0) / ideal, 3),
        "first_p50_ms": milliseconds(first_tokens(sent), 50),
        "first_p95_ms": milliseconds(first_tokens(sent), 95),
        "longest_gap_p95_ms": milliseconds([send["gap"] for send in done], 95),
        "post_p95_ms": milliseconds([send["post"] for send in done], 95),
        "tokens_per_s": round(delivered / max(seconds - 0.5, 0.001)),
        "cpu_per_1000_deltas_s": round(spent["all"] / max(delivered / 1000, 1e-9), 4),
        "cpu_s": {part: round(value, 2) for part, value in spent.items()},
        "web_memory_mb": round(peak.memory_mb),
        "web_threads": peak.threads,
        "connections": peak.connections,
    }


def measure_length(stack: Stack, *, rounds: int, messages: int) -> dict[str, Any]:
    """A send into a long conversation against one into a short one, while somebody else watches a reply.

    The page is opened first, as it is in a browser: there is no other way to its form. "unopened" is a send into a long
    conversation whose page this process has never shown: a process that took over, or a tab from before a restart.
    """
    watchers = make_viewers(3, prefix="watcher")  # nobody whose earlier send may have failed under load
    # One conversation a round: the first send into a long one is the dear one, and what it leaves serves later ones.
    people = {
        "short": make_viewers(rounds, messages=10, prefix="short"),
        "long": make_viewers(rounds, messages=messages, prefix="long"),
        "unopened": make_viewers(rounds, messages=messages, prefix="unopened"),
    }
    settle()
    first: dict[str, list[float]] = {name: [] for name in people}
    later: dict[str, list[float]] = {name: [] for name in people}
    gaps: dict[str, list[float]] = {"alone": [], **{name: [] for name in people}}
    for number in range(rounds):
        for name in gaps:
            who = [watchers[number % len(watchers)]]
            if name != "alone":
                who.append(people[name][number])
            if name in ("short", "long"):
                who[1]["reads"] = READS  # while the watcher's reply runs
            sent = watch(stack.web_port, who, **SHORT_REPLY, sends=1, spread=0.3)
            if len(good(sent)) < len(sent):
                raise SystemExit(f"a send into a conversation failed: {sent}")
            gaps[name].append(sent[0]["gap"])
            if name != "alone":
                first[name].append(sent[1]["first"])
                who[1].pop("reads", None)
    del people["unopened"]
    for number in range(rounds):
        for name, viewers in people.items():  # each goes on in the conversation that it has asked in before
            sent = watch(
                stack.web_port, [viewers[number]], **SHORT_REPLY, sends=LATER_SENDS, spread=0.0, pause=0.5
            )
            if len(good(sent)) < len(sent):
                raise SystemExit(f"a send after the first failed: {sent}")
            later[name] += first_tokens(sent)
    medians = {name: statistics.median(values) * 1000 for name, values in first.items()}
    after = {name: statistics.median(values) * 1000 for name, values in later.items() if values}
    return {
        "messages": messages,
        "rounds": rounds,
        "first_short_ms": round(medians["short"], 2),
        "first_long_ms": round(medians["long"], 2),
        "ratio": round(medians["long"] / medians["short"], 2),
        "first_unopened_ms": round(medians["unopened"], 2),
        "unopened_ratio": round(medians["unopened"] / medians["short"], 2),
        "later_short_ms": round(after["short"], 2),
        "later_long_ms": round(after["long"], 2),
        "later_ratio": round(after["long"] / after["short"], 2),
        "gap_ms": {name: milliseconds(values, 50) for name, values in gaps.items()},
        "gap_growth_ms": round(
            (statistics.median(gaps["long"]) - statistics.median(gaps["alone"])) * 1000, 2
        ),
    }


def measure(quick: bool, only: set[str]) -> dict[str, Any]:
    sizes = [50, 100] if quick else [50, 100, 200, 400]
    many = 100 if quick else 1000
    found: dict[str, Any] = {
        "quick": quick,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
    }

    def wanted(name: str) -> bool:
        return not only or name in only

    with running() as stack:
        viewers = make_viewers(max(many, *sizes))
        watch(stack.web_port, viewers[:4], deltas=20, pace=5, sends=5, spread=0.1)  # what is loaded lazily
        if wanted("first"):
            rounds = 2 if quick else 5
            found["first_token"] = [
                measure_first_token(stack, viewers[:count], sends=20, rounds=rounds) for count in (1, 4)
            ]
        if wanted("message"):
            found["message"] = measure_message(stack, viewers[:20], sends=8 if quick else 20)
        if wanted("pace"):
            found["short_replies"] = [
                measure_pace(stack, viewers[:count], **SHORT_REPLY, spread=2.0) for count in sizes
            ]
        if wanted("many"):
            reply = {"deltas": 100, "pace": 40} if quick else LONG_REPLY
            spread = 3.0 if quick else 16.0
            found["long_replies"] = measure_pace(stack, viewers[:many], **reply, spread=spread)
        if wanted("length"):
            with Peak.of(stack) as peak:  # recall has brought its tables by then
                found["length"] = measure_length(stack, rounds=1 if quick else 5, messages=5000)
            found["length"]["web_memory_mb"] = round(peak.memory_mb)
    found["load_average_after"] = os.getloadavg()[0]
    return found


# --- The table ------------------------------------------------------------------------------------------------


def rows(found: dict[str, Any]) -> Iterator[tuple[str, str, float, float, str]]:
    """What was measured, the most used peer's figure, ours, the limit, and which side of it is right."""
    for figures, peer, limit in zip(found.get("first_token", []), ("36.7", ""), (10, 15), strict=False):
        name = f"added time to first token, {figures['streams']} stream(s), p50, ms"
        yield name, peer, figures["parley"]["added_p50_ms"], limit, "<="
    if message := found.get("message"):
        yield "CPU of a message with 20 deltas, ms", "49", message["cpu_ms"]["all"], 12, "<="
    short = found.get("short_replies", [])
    if short:
        held = max((figures["streams"] for figures in short if figures["held"]), default=0)
        yield "replies of 2 s held in pace at once", "20", held, 200, ">="
    for figures in short:
        if figures["streams"] == 200:
            yield "time to first token at 200, p95, ms", "", figures["first_p95_ms"], 120, "<="
    if many := found.get("long_replies"):
        at_once = many["streams"] if many["held"] else many["in_pace"]
        yield "replies of 20 s held in pace at once", "100-200", at_once, 1000, ">="
        yield f"time to first token at {many['streams']}, p95, ms", "", many["first_p95_ms"], 500, "<="
        yield "CPU of 1,000 deltas, s", "0.63-0.82", many["cpu_per_1000_deltas_s"], 0.06, "<="
        yield "memory of the web process, MB", "958", many["web_memory_mb"], 250, "<="
        yield "threads of the web process", "", many["web_threads"], 20, "<="
        yield "database connections", "", many["connections"], 30, "<="
    if length := found.get("length"):
        yield "first token after 5,000 messages (page open), times", "31", length["ratio"], 1.2, "<="
        yield "the same, of sends after the first", "", length["later_ratio"], 1.2, "<="
        yield "growth of another's longest gap, ms", "660", length["gap_growth_ms"], 20, "<="


def print_table(found: dict[str, Any]) -> None:
    print(f"\n{'':<52}{'peer':>10}{'limit':>9}{'Parley':>10}")
    for name, peer, ours, limit, side in rows(found):
        met = ours <= limit if side == "<=" else ours >= limit
        print(f"{name:<52}{peer:>10}{side + format(limit, 'g'):>9}{ours:>10g}  {'met' if met else 'NOT MET'}")
    for figures in found.get("first_token", []):
        added = {name: figures[name] for name in ("direct", "relay", "parley")}
        shown = ", ".join(f"{k} {v['p50_ms']:g} (p95 {v['p95_ms']:g})" for k, v in added.items())
        # How long a round trip takes is the machine's; the relay says it, in the same run.
        times = added["parley"]["added_p50_ms"] / max(added["relay"]["added_p50_ms"], 0.01)
        print(
            f"first token at {figures['streams']}, ms: {shown}; the POST alone {figures['post_p50_ms']:g};"
            f" added {times:.1f} times what the relay adds"
        )
    if length := found.get("length"):
        print(
            f"first token after 10 messages {length['first_short_ms']:g} ms, after 5,000 {length['first_long_ms']:g}"
            f" with the page open, {length['first_unopened_ms']:g} ({length['unopened_ratio']:g} times) in a process"
            f" that has not shown it; later ones {length['later_short_ms']:g} and {length['later_long_ms']:g}"
        )
        print(f"the web process with the tables of recall, afterwards: {length['web_memory_mb']} MB")
    for figures in [*found.get("short_replies", []), *filter(None, [found.get("long_replies")])]:
        print(
            f"{figures['streams']:>5} replies of {figures['ideal_s']:g} s: {figures['in_pace']} of {figures['replies']}"
            f" in pace, slowest {figures['slowest']:g} x"
            f" ({figures['slowest_with_send']:g} x with its send), {figures['errors']} errors, first token"
            f" {figures['first_p50_ms']:g} / {figures['first_p95_ms']:g} ms, {figures['tokens_per_s']} tokens/s,"
            f" CPU {figures['cpu_per_1000_deltas_s']:g} s per 1,000, {figures['web_memory_mb']} MB,"
            f" {figures['web_threads']} threads, {figures['connections']} connections"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller, in less than a minute")
    parser.add_argument(
        "--only", nargs="*", default=[], choices=["first", "message", "pace", "length", "many"]
    )
    options = parser.parse_args()
    found = measure(options.quick, set(options.only))
    print_table(found)
    whole = not options.quick and not options.only
    path = RESULTS / ("streams.json" if whole else "streams-part.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
