"""What the receipt of a reply says of its money: the ledger's lines by reply, and that its answer was shortened."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0012_budget_indexes")]
    operations = [
        migrations.AddField(
            model_name="reply",
            name="is_shortened",
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddIndex(
            model_name="ledgerentry",
            index=models.Index(
                condition=models.Q(("reply_id", None), _negated=True), fields=["reply_id"], name="ledger_of_reply"
            ),
        ),
    ]
