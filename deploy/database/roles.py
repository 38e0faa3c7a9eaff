"""Database roles and their rights.

The writer fills tables. The reader reads. Executor and guard write the journal and the risk switch. The console writes its users, its audit log
and the risk switch. Only the owner has more rights.

The roles belong to the server, so its databases share them and their passwords. Rights are granted per database after every migration.
A password comes from the environment or a file (``schemas.settings``). It leaves this process only as its SCRAM verifier.
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from schemas import catalogue
from schemas.settings import ROLES, Settings

# Besides the tables of the topics, which the writer reads (to find repeats) and appends to.
WRITER_TABLES: Mapping[str, str] = {
    "sink_offsets": "SELECT, INSERT, UPDATE",
    "sink_watermarks": "SELECT, INSERT, UPDATE",
    "strategy_registry": "SELECT, INSERT, UPDATE, DELETE",
    "strategy_audit": "SELECT, INSERT",
    "bar_sources": "SELECT",
    "bar_changes": "INSERT",
}
WRITER_FUNCTIONS = ("perpflow_make_partition(text, date, boolean)",)
# Tables with this prefix belong to the executor. The switch blocks entries in the transaction that journals them.
EXECUTOR_PREFIX = "executor_"
EXECUTOR_TABLES: Mapping[str, str] = {
    "risk_switch": "SELECT, INSERT, UPDATE",
    "live_accounts": "SELECT, INSERT, UPDATE",
    "live_trades": "SELECT, INSERT, UPDATE",
    "live_outbox": "SELECT, INSERT, DELETE",
    # Estimates are never updated or deleted.
    "live_routes": "SELECT, INSERT",
}

# The audit log only grows. The console gives the risk commands of the command line.
CONSOLE_TABLES: Mapping[str, str] = {
    "console_users": "SELECT, INSERT, UPDATE",
    "console_sessions": "SELECT, INSERT, UPDATE, DELETE",
    "console_invitations": "SELECT, INSERT, UPDATE",
    "console_invitation_uses": "SELECT, INSERT",
    "console_secret": "SELECT, INSERT",
    "console_audit": "SELECT, INSERT",
    "console_annotations": "SELECT, INSERT, UPDATE",
    "console_backtests": "SELECT, INSERT, UPDATE",
    "risk_switch": "SELECT, INSERT, UPDATE",
}
# The reader has no access to these tables: they hold hashes of passwords and tokens.
CONSOLE_PREFIX = "console_"


def name_of(role: str) -> str:
    """Return the database name of a role."""
    return f"perpflow_{role}"


def grant(connection: psycopg.Connection) -> list[str]:
    """Create missing roles and set the rights of each in this database. Return problems for the operator.

    Args:
        connection: Connection of the tables' owner, autocommit.
    """
    try:
        for role in ROLES:
            _make(connection, name_of(role))
    except psycopg.errors.InsufficientPrivilege:
        return [f"the roles {', '.join(map(name_of, ROLES))} do not exist, and this user may not create them"]
    writer, reader, executor, console = (sql.Identifier(name_of(role)) for role in ROLES)
    everyone = sql.SQL(", ").join((writer, reader, executor, console))
    database = sql.Identifier(connection.info.dbname)
    relations: list[str] = [
        name
        for (name,) in connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND NOT relispartition"
            " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = pg_class.oid AND d.deptype = 'e') ORDER BY 1"
        )
    ]
    rights: dict[str, list[tuple[sql.Identifier, str]]] = {
        name: [] if name.startswith(CONSOLE_PREFIX) else [(reader, "SELECT")] for name in relations
    }
    for name in relations:
        if name in catalogue.TOPICS:
            rights[name].append((writer, "SELECT, INSERT"))
        if name in WRITER_TABLES:
            rights[name].append((writer, WRITER_TABLES[name]))
        if name.startswith(EXECUTOR_PREFIX):
            rights[name].append((executor, "SELECT, INSERT, UPDATE, DELETE"))
        if name in EXECUTOR_TABLES:
            rights[name].append((executor, EXECUTOR_TABLES[name]))
        if name in CONSOLE_TABLES:
            rights[name].append((console, CONSOLE_TABLES[name]))
    with connection.transaction():
        # Two concurrent migrations on one server would change the same catalogue row.
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, everyone))
        connection.execute(sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(database, writer))
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(everyone))
        for name, given in rights.items():
            connection.execute(sql.SQL("REVOKE ALL ON {} FROM {}").format(sql.Identifier(name), everyone))
            for role_name, what in given:
                connection.execute(
                    sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(what), sql.Identifier(name), role_name)  # type: ignore[arg-type]
                )
        for function in WRITER_FUNCTIONS:
            connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.SQL(function), writer))  # type: ignore[arg-type]
    return []


def set_passwords(connection: psycopg.Connection, settings: Settings) -> list[str]:
    """Enable login for the roles with a password in the settings. Return the names of the changed roles.

    Raises:
        psycopg.Error: the connection's user may not change roles.
    """
    changed = []
    for role in ROLES:
        password = getattr(settings, f"{role}_password")
        if not password or _logs_in(settings.role_url(role)):
            continue
        name = name_of(role)
        verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(verifier)))
        changed.append(name)
    return changed


def _make(connection: psycopg.Connection, name: str) -> None:
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
        try:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)))
        except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            pass  # a migration of another database on this server created it first


def _logs_in(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
