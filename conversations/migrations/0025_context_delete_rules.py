"""Let the database itself follow a deletion in summaries, memory and presets, as 0002 does for older tables."""

from django.db import migrations

from ._delete_rules import delete_rules


class Migration(migrations.Migration):
    dependencies = [("conversations", "0024_context_engine")]
    operations = [
        delete_rules(
            ("conversation_summaries", "covers_until_id", "messages", "CASCADE"),
            ("conversation_summaries", "made_from_id", "conversation_summaries", "SET NULL"),
            ("conversation_summaries", "created_by_id", "users", "SET NULL"),
            ("memory_items", "user_id", "users", "CASCADE"),
            ("memory_items", "conversation_id", "conversations", "CASCADE"),
            ("memory_items", "source_id", "messages", "SET NULL"),
            ("memory_items", "supersedes_id", "memory_items", "SET NULL"),
            ("presets", "owner_id", "users", "SET NULL"),
        )
    ]
