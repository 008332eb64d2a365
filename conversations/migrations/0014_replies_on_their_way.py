"""Find a person's replies that wait or run by one small index: each send counts those that run."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0013_receipts")]
    operations = [
        migrations.RemoveIndex("reply", "replies_waiting"),
        migrations.AddIndex(
            "reply",
            models.Index(
                fields=["user"],
                condition=models.Q(state__in=["waiting", "queued", "running"]),
                name="replies_on_their_way",
            ),
        ),
    ]
