"""A summary that a person has asked for is a row before it is written; who writes one may die and be found."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0030_system_prompts")]
    operations = [
        migrations.RemoveConstraint(model_name="conversationsummary", name="summaries_state_known"),
        migrations.AlterField(
            model_name="conversationsummary",
            name="state",
            field=models.CharField(
                choices=[
                    ("wanted", "Wanted"),
                    ("in_force", "In Force"),
                    ("refused", "Refused"),
                    ("retired", "Retired"),
                ],
                db_default="in_force",
                default="in_force",
                max_length=8,
            ),
        ),
        migrations.AddConstraint(
            model_name="conversationsummary",
            constraint=models.CheckConstraint(
                condition=models.Q(state__in=["wanted", "in_force", "refused", "retired"]),
                name="summaries_state_known",
            ),
        ),
        migrations.AddIndex(
            model_name="conversationsummary",
            index=models.Index(
                fields=["created_at"], condition=models.Q(state="wanted"), name="summaries_to_write"
            ),
        ),
        migrations.RemoveIndex(model_name="conversation", name="conversations_to_compact"),
        migrations.AddIndex(
            model_name="conversation",
            index=models.Index(
                fields=["compaction_due_at"],
                condition=models.Q(compaction_due_at__isnull=False)
                | models.Q(compaction_lease_expires_at__isnull=False),
                name="conversations_to_compact",
            ),
        ),
    ]
