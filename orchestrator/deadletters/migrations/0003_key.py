"""The field gets the name of what it is; its column keeps its own, so that nothing is written to the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator_deadletters", "0002_poison"),
    ]

    operations = [
        migrations.AlterField(
            model_name="deadletter",
            name="attempt_id",
            field=models.CharField(db_column="attempt_id", editable=False, max_length=64, unique=True),
        ),
        migrations.RenameField(model_name="deadletter", old_name="attempt_id", new_name="key"),
    ]
