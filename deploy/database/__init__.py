"""The database: migrations, roles, maintenance, columnstore, backup."""
