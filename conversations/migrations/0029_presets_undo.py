"""A deleted preset can be brought back, and its name is free meanwhile."""

from django.db import migrations, models
from django.db.models.functions import Lower


class Migration(migrations.Migration):
    dependencies = [("conversations", "0025_context_delete_rules")]
    operations = [
        migrations.AlterModelOptions(name="savedpreset", options={"verbose_name": "preset"}),
        migrations.RemoveConstraint(model_name="savedpreset", name="presets_named_once"),
        migrations.AddField(
            model_name="savedpreset",
            name="deleted_at",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AlterField(
            model_name="savedpreset",
            name="is_shared",
            field=models.BooleanField(db_default=False, default=False, verbose_name="shared with everyone"),
        ),
        migrations.AddConstraint(
            model_name="savedpreset",
            constraint=models.UniqueConstraint(
                models.F("owner"), Lower("name"), condition=models.Q(("deleted_at", None)), name="presets_named_once"
            ),
        ),
    ]
