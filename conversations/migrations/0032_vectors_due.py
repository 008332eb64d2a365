"""Make vectors in the background: mark the conversations that a worker is wanted for."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0026_request_background"), ("conversations", "0031_kept_places")]
    operations = [
        migrations.AddField(
            model_name="conversation",
            name="vectors_due_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddField(
            model_name="conversation",
            name="vectors_attempts",
            field=models.PositiveSmallIntegerField(db_default=0, default=0, editable=False),
        ),
        migrations.AddIndex(
            model_name="conversation",
            index=models.Index(
                condition=models.Q(("vectors_due_at__isnull", False)),
                fields=["vectors_due_at"],
                name="conversations_without_vectors",
            ),
        ),
    ]
