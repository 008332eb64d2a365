"""What a web process leaves out: it would hold it for as long as it lives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from bench.web import DEVELOPERS_ONLY

#: Each takes 3 to 12 MB, and is for sites with an identity provider, for stored keys, for recall, or for workers.
LEFT_OUT = {
    "celery",
    "charset_normalizer",
    "cryptography.hazmat",
    "genai_prices",
    "jwt",
    "kombu",
    "requests",
    "tokenizers",
    "urllib3",
}


def loaded_at_the_start(**environment: str) -> set[str]:
    """The modules of a web process that answers, in a new interpreter."""
    code = "import chatapp.asgi, chatapp.urls, sys; print(*sys.modules)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OIDC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return loaded_at_the_start()


@pytest.mark.parametrize("module", sorted(LEFT_OUT))
def test_a_web_process_does_not_load(module: str, loaded: set[str]) -> None:
    assert "conversations.urls" in loaded
    assert module not in loaded


def test_single_sign_on_is_loaded_where_a_provider_is_configured() -> None:
    provider = {"ISSUER": "https://login.example.org", "CLIENT_ID": "parley", "CLIENT_SECRET": "secret"}
    loaded = loaded_at_the_start(**{f"OIDC_{name}": value for name, value in provider.items()})
    assert "conversations.oidc_flow" in loaded


RESIDENT = """
import threading
from pathlib import Path
import django
django.setup()
from conversations.allocator import give_back_memory
from conversations.llm import embeddings

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

thread = threading.Thread(target=embeddings.warm_up)
thread.start(), thread.join()
assert not embeddings.are_missing()
loaded = resident()
"""


def printed_by(code: str) -> int:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_what_loading_the_word_vectors_took_is_given_back() -> None:
    assert printed_by(RESIDENT + "give_back_memory(); print(loaded - resident())") < 4e6  # 14 MB


def test_the_word_vectors_keep_no_text_that_they_were_asked_for() -> None:
    code = """
embeddings.embed("Nothing at all. " * 12)
before = resident()
for number in range(2_000):
    embeddings.embed(f"{number}. What did we say of the lanes and of the boats in the harbour? " * 2)
print(resident() - before)
"""
    assert printed_by(RESIDENT + code) < 4e6  # 17 MB


def test_what_the_load_benchmark_hides_no_server_has() -> None:
    root = Path(__file__).parents[2]
    pins = "".join((root / "requirements" / name).read_text() for name in ("runtime.txt", "embedded.txt"))
    servers = {name.lower() for name in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    assert "redis" in servers
    installed = packages_distributions()
    hidden = {name.lower() for module in DEVELOPERS_ONLY for name in installed.get(module, [module])}
    assert not hidden & servers
