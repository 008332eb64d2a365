"""Keep of each message which pieces of words it has, beside its vector: recall looks at the best messages again.

What has its vector already gets them from `manage.py embed_messages`; until then recall goes by the first look.
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("conversations", "0033_lean_indexes")]
    operations = [
        migrations.AddField(
            model_name="messageplace",
            name="pieces",
            field=models.BinaryField(null=True),
        ),
    ]
