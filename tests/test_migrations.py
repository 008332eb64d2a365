"""The tables are what the models say, and Django finds nothing to complain of."""

from __future__ import annotations

from importlib import import_module
from io import StringIO
from typing import Any

from django.apps import apps
from django.core.management import call_command
from django.db import connection, models
from django.test import TestCase

from conversations.models import Conversation, ConversationSummary
from tests import cast

#: What PostgreSQL calls the actions that Django declares in Python alone.
ACTIONS: dict[Any, str] = {models.CASCADE: "c", models.SET_NULL: "n"}


def keys() -> list[Any]:
    ours = apps.get_app_config("conversations").get_models()
    fields = (field for model in ours for field in model._meta.local_fields)
    return [field for field in fields if isinstance(field, models.ForeignKey)]


def declared() -> dict[tuple[str, str], str]:
    """Table and column of each foreign key of ours, with what becomes of the row when its target is deleted."""
    return {
        (field.model._meta.db_table, field.column): ACTIONS[field.remote_field.on_delete]
        for field in keys()
        if field.db_constraint
    }


def in_the_database() -> dict[tuple[str, str], str]:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT conrelid::regclass::text, attname, confdeltype FROM pg_constraint
            JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
            WHERE contype = 'f'
            """
        )
        return {(table, column): action for table, column, action in cursor.fetchall()}


def without_index() -> list[tuple[str, str]]:
    """Foreign keys whose rows PostgreSQL would look for in the whole table when a target is deleted."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT conrelid::regclass::text, attname FROM pg_constraint
            JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
            WHERE contype = 'f' AND NOT EXISTS (
                SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = attnum
                AND (indpred IS NULL OR pg_get_expr(indpred, indrelid) ~ (attname || ' IS NOT NULL'))
            )
            """
        )
        return list(cursor.fetchall())


def indexed(table: str) -> set[str]:
    """Columns that any index of a table has or asks for."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid
            WHERE indrelid = %s::regclass AND attnum > 0
                AND (attnum = ANY (indkey) OR pg_get_expr(indpred, indrelid) ~ ('(^|[^:])\\m' || attname || '\\M'))
            """,
            [table],
        )
        return {column for (column,) in cursor.fetchall()}


class MigrationTests(TestCase):
    def test_no_model_waits_for_a_migration(self) -> None:
        call_command("makemigrations", check=True, dry_run=True, stdout=StringIO())

    def test_the_checks_of_django_pass(self) -> None:
        call_command("check", fail_level="WARNING", stdout=StringIO())

    def test_the_database_itself_deletes_what_belongs_to_a_deleted_row(self) -> None:
        found = in_the_database()
        self.assertEqual({key: found[key] for key in declared()}, declared())

    def test_what_belongs_to_a_deleted_row_is_found_by_an_index(self) -> None:
        self.assertEqual([key for key in without_index() if key in declared()], [])

    def test_a_checkpoint_writes_nothing_that_an_index_holds(self) -> None:
        written = {"text", "reasoning", "journal_position", "first_token_at", "lease_expires_at"}
        self.assertIn("state", indexed("replies"))
        self.assertEqual(indexed("replies") & written, set())

    def test_only_the_words_of_a_place_are_kept_by_a_trigger_in_place_of_a_key(self) -> None:
        without_key = [str(field) for field in keys() if not field.db_constraint]
        self.assertEqual(without_key, ["conversations.MessagePosting.place"])

    def test_replies_without_an_answer_are_in_no_index_of_answers(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT indisunique, pg_get_expr(indpred, indrelid) FROM pg_index
                JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
                WHERE indrelid = 'replies'::regclass AND attname = 'answer_id'
                """
            )
            self.assertEqual(cursor.fetchall(), [(True, "(answer_id IS NOT NULL)")])

    def test_summaries_from_before_there_were_versions_are_numbered(self) -> None:
        migration = import_module("conversations.migrations.0024_context_engine")
        first, second = (
            Conversation.objects.create(user=person(), model="m") for person in (cast.alice, cast.bob)
        )
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE conversation_summaries DROP CONSTRAINT summaries_versions")
            made = [
                ConversationSummary.objects.create(
                    conversation=conversation, summary=text, message_count_at_creation=2
                )
                for conversation, text in (
                    (first, "One"),
                    (second, "Another"),
                    (first, "Two"),
                    (first, "Three"),
                )
            ]
            cursor.execute(migration.NUMBER_VERSIONS)
        for row in made:
            row.refresh_from_db()
        self.assertEqual([row.version for row in made], [1, 1, 2, 3])
