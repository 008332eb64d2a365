from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('conversations', '0010_ledger_is_kept'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='priceoverride',
            options={'verbose_name': 'price'},
        ),
    ]
