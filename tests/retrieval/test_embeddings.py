"""A text's vector: near to what means the same, bounded for any text, and not needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from importlib import metadata
from string import ascii_lowercase

import numpy as np
import pytest

from conversations.llm import embeddings
from conversations.llm.embeddings import DIMENSIONS, MOST_PIECES, PIECE, as_sql, embed, meaning


def likeness(one: str, other: str) -> float:
    first, second = embed(one), embed(other)
    assert first is not None and second is not None
    return float(first @ second)


def pieces(text: str) -> bytes:
    found = meaning(text)
    assert found is not None
    return found.pieces


@pytest.fixture
def without_wheel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.setattr(embeddings, "_loaded", None)
    monkeypatch.setattr(embeddings, "_is_missing", False)
    yield


def test_a_vector_has_256_numbers_and_length_1() -> None:
    vector = embed("Anna moved to Bergen in May.")
    assert vector is not None and vector.shape == (DIMENSIONS,)
    assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-5)


def test_what_means_the_same_is_nearer_than_what_shares_nothing() -> None:
    question = "Where does my sister live now?"
    assert (
        likeness(question, "Her new home is in Bergen.")
        > likeness(question, "The invoice has been paid.") + 0.1
    )


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_nothing_has_no_vector(text: str) -> None:
    assert embed(text) is None


@pytest.mark.parametrize("text", ["\N{CAT FACE}" * 40_000, "猫" * 40_000, "x" * 1_000_000, "a b\n" * 100_000])
def test_any_text_has_one(text: str) -> None:
    vector = embed(text)
    assert vector is not None and np.isfinite(vector).all()


def test_of_a_long_text_the_beginning_and_the_end_count() -> None:
    log = "2026-01-02 GET /index.html 200\n" * 1_000
    question = "Why does my sister not live in Bergen any more?"
    assert likeness(log + question, question) > likeness(log, question)
    assert likeness(question + log, question) > likeness(log, question)
    assert likeness(log + question + log, log + log) == pytest.approx(1, abs=1e-5)


def test_sql_reads_it() -> None:
    assert as_sql([0.5, -0.25, 1e-9]) == "[0.5,-0.25,1e-09]"
    assert as_sql(None) is None


@pytest.mark.usefixtures("without_wheel")
def test_without_the_wheel_there_are_no_vectors(caplog: pytest.LogCaptureFixture) -> None:
    assert embed("Where?") is None and embed("Why?") is None
    assert not embeddings.warm_up()
    assert len(caplog.records) == 1, "it is said once"


async def test_a_question_that_comes_before_they_are_loaded_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[str] = []

    def load() -> None:
        threads.append(threading.current_thread().name)

    monkeypatch.setattr(embeddings, "_loaded", None)
    monkeypatch.setattr(embeddings, "_load", load)
    assert await embeddings.embed_aside("Where?") is None
    assert threads and threading.main_thread().name not in threads


def test_the_pieces_of_a_text_are_its_telling_ones_once_each() -> None:
    found, twice = meaning("A ship, a ship!"), meaning("ship")
    assert found is not None and twice is not None
    vector = embed("A ship, a ship!")
    assert vector is not None and np.array_equal(found.vector, vector)
    assert set(np.frombuffer(found.pieces, PIECE)) >= set(np.frombuffer(twice.pieces, PIECE))
    assert len(found.pieces) == PIECE.itemsize * len(set(np.frombuffer(found.pieces, PIECE)))
    assert meaning(" ") is None
    marks = meaning("?! ...")
    assert marks is not None and marks.pieces == b""


def test_a_text_has_no_more_pieces_than_fit_into_a_row() -> None:
    found = meaning(" ".join(a + b + c for a in ascii_lowercase for b in "aeiou" for c in ascii_lowercase))
    assert found is not None and len(found.pieces) == PIECE.itemsize * MOST_PIECES


def test_likeness_is_the_cosine_of_a_word_and_a_piece() -> None:
    ship, boat = (int(np.frombuffer(piece, PIECE)[0]) for piece in map(pieces, ("ship", "boat")))
    found = embeddings.likeness(["ship", " ", "boat"], np.array([ship, boat]))
    assert found is not None and found.shape == (2, 2), "what has no vector has no row"
    assert np.allclose(np.diag(found), 1, atol=1e-3) and 0.2 < found[0, 1] < 0.9
    assert embeddings.likeness([" "], np.array([ship])) is None


def test_without_the_wheel_nothing_has_pieces(without_wheel: None) -> None:
    assert meaning("ship") is None and embeddings.likeness(["ship"], np.array([1])) is None
