"""Keep out of indexes what a running reply writes each second, and leave out those that others contain.

A checkpoint renews the lease of its reply. While that was in an index, each checkpoint made entries in all ten of them;
now it stays on the page of its row, where room is left for it. The few replies that are on their way are found by
`replies_one_unfinished`, whatever their leases. Rows of a person or of a reply are found by a key that begins with it.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

CASCADE, SET_NULL = django.db.models.deletion.CASCADE, django.db.models.deletion.SET_NULL


def without_index(model, name, key, table, index):
    """The database forgets the index alone: Django would make the constraint anew, without its rule for deletions."""
    return migrations.SeparateDatabaseAndState(
        [migrations.RunSQL(f"DROP INDEX {index}", f"CREATE INDEX {index} ON {table} ({name}_id)")],
        [migrations.AlterField(model, name, key)],
    )


class Migration(migrations.Migration):
    dependencies = [("conversations", "0032_vectors_due")]
    operations = [
        migrations.RemoveIndex("reply", "replies_unfinished"),
        without_index(
            "conversation",
            "user",
            models.ForeignKey(settings.AUTH_USER_MODEL, CASCADE, db_index=False),
            "conversations",
            "conversations_user_id_e9bb86a0",
        ),
        without_index(
            "reply",
            "user",
            models.ForeignKey(settings.AUTH_USER_MODEL, CASCADE, db_index=False, related_name="replies"),
            "replies",
            "replies_user_id_69326151",
        ),
        without_index(
            "reply",
            "continues",
            models.ForeignKey(
                "conversations.message",
                SET_NULL,
                blank=True,
                db_index=False,
                null=True,
                related_name="continuations",
            ),
            "replies",
            "replies_continues_id_fcced22f",
        ),
        without_index(
            "replyattempt",
            "reply",
            models.ForeignKey("conversations.reply", CASCADE, db_index=False, related_name="attempts"),
            "reply_attempts",
            "reply_attempts_reply_id_106c28be",
        ),
        migrations.AddIndex(
            "reply",
            models.Index(
                fields=["continues"], condition=models.Q(continues__isnull=False), name="replies_continuing"
            ),
        ),
        migrations.RunSQL(
            "ALTER TABLE replies SET (fillfactor = 70)", "ALTER TABLE replies RESET (fillfactor)"
        ),
    ]
