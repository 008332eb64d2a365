"""`manage.py simulate FILE`: what it reads, what it prints, and what it says about a bad file."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from django.core.management import CommandError, call_command
from django.test import TestCase

from conversations.catalog import Catalog
from conversations.cost_lab.files import BadFile, read_file
from conversations.llm.scripted import ScriptedProvider
from conversations.models import Reply
from conversations.providers import replaced
from tests.prices.cheap import a_price
from tests.replies.harness import MODEL, catalog_of

FACT = "The heron nests behind the pumping station at Zwolle."


def messages(turns: int) -> list[dict[str, Any]]:
    said = [{"id": "fact", "role": "user", "content": FACT}, {"role": "assistant", "content": "Noted."}]
    for number in range(turns):
        said.append({"role": "user", "content": f"And what about case {number}? " + "Tell me more. " * 40})
        said.append({"role": "assistant", "content": f"Case {number} is like the one before. " * 40})
    return said


class FileTests(TestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(TemporaryDirectory())
        self.enterContext(catalog_of(ScriptedProvider(), is_free=False, price=a_price(MODEL)))

    def file(self, value: Any, name: str = "talk.json") -> Path:
        path = Path(self.folder) / name
        text = value if isinstance(value, str) else json.dumps(value)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def run_on(self, value: Any, *arguments: str, name: str = "talk.json") -> str:
        out = StringIO()
        call_command("simulate", str(self.file(value, name)), *arguments, stdout=out)
        return out.getvalue()

    def test_a_table_of_strategies_and_models(self) -> None:
        printed = self.run_on(messages(60))
        lines = printed.splitlines()
        self.assertIn("61 turns", lines[0])
        for name in ("Adaptive", "Full history", "Last turns", "Importance", "Summary", "Memory"):
            self.assertTrue(any(line.startswith(name) for line in lines), name)
        self.assertIn("$", printed)
        self.assertNotIn("recall", printed)
        self.assertFalse(Reply.objects.exists(), "nothing was called")

    def test_labelled_questions_show_what_each_strategy_keeps(self) -> None:
        value = {
            "messages": messages(60),
            "questions": [{"text": "Where does the heron nest?", "evidence": ["fact"]}],
        }
        found = json.loads(self.run_on(value, "--json"))
        (one,) = found
        recall = {row["name"]: row["recall"] for row in one["strategies"]}
        self.assertEqual(one["questions"], 1)
        self.assertEqual((recall["Adaptive"], recall["Last turns"]), (1.0, 0.0))
        self.assertEqual(recall["Everything, always"], 1.0)
        adaptive = one["strategies"][0]
        self.assertEqual(set(adaptive["cost"]), {MODEL})
        self.assertLess(adaptive["most_tokens"], 16_100)

    def test_what_does_not_fit_a_window_has_no_price(self) -> None:
        rows = json.loads(self.run_on(messages(100), "--json"))[0]["strategies"]
        cost = {row["name"]: row["cost"][MODEL] for row in rows}
        self.assertIsNone(cost["Everything, always"])
        self.assertIsNotNone(cost["Full history"], "bounded by the window")

    def test_forms_of_files(self) -> None:
        plain = messages(1)
        self.assertEqual(len(read_file(self.file(plain))[0].messages), 4)
        lines = "\n".join(json.dumps(one) for one in plain)
        self.assertEqual(len(read_file(self.file(lines, "talk.jsonl"))[0].messages), 4)
        prompt = [{"role": "system", "content": "Be brief."}, *plain]
        self.assertEqual(read_file(self.file(prompt))[0].system_prompt, "Be brief.")
        two = [{"messages": plain, "title": "One"}, {"messages": plain}]
        self.assertEqual([one.name for one in read_file(self.file(two))], ["One", "talk 2"])
        sessions = {
            "conversation": {
                "speaker_a": "Ann",
                "session_2": [{"dia_id": "D2:1", "speaker": "Bo", "text": "Yes."}],
                "session_1": [{"dia_id": "D1:1", "speaker": "Ann", "text": "Hello."}],
            },
            "qa": [
                {"question": "Who said yes?", "evidence": ["D2:1"]},
                {"question": "Who?", "evidence": ["D9"]},
            ],
        }
        (dialogue,) = read_file(self.file([sessions]))
        self.assertEqual([one.content for one in dialogue.messages], ["Ann: Hello.", "Bo: Yes."])
        self.assertEqual(dialogue.questions, (("Who said yes?", frozenset({"D2:1"})),))

    def test_no_message_is_left_out_whoever_speaks_twice(self) -> None:
        roles = ["assistant", "user", "user", "assistant", "assistant", "user"]
        (dialogue,) = read_file(
            self.file([{"role": role, "content": f"Line {n}."} for n, role in enumerate(roles)])
        )
        turns = dialogue.turns("gpt-4o")
        said = [one.content for turn in turns for one in (turn.question, turn.answer) if one]
        self.assertEqual(said, [f"Line {n}." for n in range(6)])

    def test_a_bad_file_is_one_sentence(self) -> None:
        bad: dict[str, Any] = {
            "is not JSON, line 2": "[\n{]",
            "no messages in it": {"talk": []},
            "no conversation": {"messages": []},
            "Message 1 has no role": [{"role": 3}, {"role": "user"}],
            "Message 2 has no text": [{"role": "user", "content": "a"}, {"role": "user", "content": None}],
            "neither user nor assistant": [{"role": "tool", "content": "x"}],
            "the same id": [
                {"id": 1, "role": "user", "content": "a"},
                {"id": 1, "role": "user", "content": "b"},
            ],
        }
        for sentence, value in bad.items():
            with self.subTest(sentence), self.assertRaisesMessage(CommandError, sentence):
                self.run_on(value)
        with self.assertRaisesMessage(BadFile, "UTF-8"):
            path = self.file("")
            path.write_bytes(b"\xff\xfe\x00")
            read_file(path)
        with self.assertRaisesMessage(BadFile, "cannot be read"):
            read_file(Path(self.folder) / "missing.json")
        with self.assertRaisesMessage(BadFile, "not JSON"):
            read_file(self.file("[" * 100_000))
        with (
            mock.patch("conversations.cost_lab.files.LARGEST_FILE", 3),
            self.assertRaisesMessage(BadFile, "larger"),
        ):
            read_file(self.file(messages(1)))

    def test_a_hostile_file_is_one_sentence_or_is_read(self) -> None:
        said = messages(1)
        for value in (
            [{**said[0], "created_at": "0001-01-01"}, said[1]],
            {"conversation": {"session_1": [{"speaker": "a", "text": "x"}] * 2}, "qa": 5},
            {"conversation": {"session_1": [{"text": "x"}] * 2, "session_" + "9" * 5_000: []}, "qa": []},
        ):
            self.assertTrue(read_file(self.file(value)))
        path = self.file(said)
        path.write_text('[{"id": ' + "9" * 5_000 + ', "role": "user", "content": "x"}]')
        with self.assertRaisesMessage(BadFile, "not JSON"):
            read_file(path)
        with self.assertRaisesMessage(BadFile, "by “\ufffd[31m”"):
            read_file(self.file([{"role": "\x1b[31m", "content": "x"}]))
        self.assertIn("\ufffd\ufffdx: 2 turns", self.run_on({"title": "\ud800\nx", "messages": said}))

    def test_models_that_are_not_there_and_models_without_a_price(self) -> None:
        with self.assertRaisesMessage(CommandError, "not available any more"):
            self.run_on(messages(1), "--model", "openai/none")
        with (
            catalog_of(ScriptedProvider(), is_free=False),
            self.assertRaisesMessage(CommandError, "no price"),
        ):
            self.run_on(messages(1), "--model", MODEL)
        with replaced(Catalog(), {}), self.assertRaisesMessage(CommandError, "no model with a price"):
            self.run_on(messages(1))
