"""Each role can do its work and is refused everything else; the sink and the executor work under theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.database import migrate as database
from schemas import catalogue
from schemas.settings import ROLES, Settings
from sinks.executor.journal import Journal
from tests.support.timescale.timescale_helpers import Feeder, assert_tables_equal, sink_thread, until

PASSWORDS = {f"PERPFLOW_{role.upper()}_PASSWORD": f"p@ss/{role} 'word" for role in ROLES}
CONSOLE = (
    "console_users",
    "console_sessions",
    "console_invitations",
    "console_invitation_uses",
    "console_secret",
    "console_audit",
    "console_annotations",
    "console_backtests",
)
Connect = Callable[[str], psycopg.Connection]


def test_passwords_come_from_variables_and_files_and_are_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PASSWORDS:
        monkeypatch.delenv(name, raising=False)
    url = "postgresql://owner:own@db:5432/perpflow?sslmode=disable"
    assert Settings(database_url=url).role_url("reader") == url
    monkeypatch.setenv("PERPFLOW_READER_PASSWORD", "a b/@c")
    (tmp_path / "secret").write_text("from the file\n")
    monkeypatch.setenv("PERPFLOW_WRITER_PASSWORD_FILE", str(tmp_path / "secret"))
    settings = Settings(database_url=url)
    assert settings.role_url("reader") == "postgresql://perpflow_reader:a%20b%2F%40c@db:5432/perpflow?sslmode=disable"
    assert settings.role_url("writer") == "postgresql://perpflow_writer:from%20the%20file@db:5432/perpflow?sslmode=disable"
    assert settings.role_url("executor") == url
    assert Settings(database_url="postgresql://db/perpflow").role_url("reader") == "postgresql://perpflow_reader:a%20b%2F%40c@db/perpflow"
    assert "a b" not in repr(settings) and "from the file" not in repr(settings)
    monkeypatch.setenv("PERPFLOW_WRITER_PASSWORD_FILE", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="PERPFLOW_WRITER_PASSWORD_FILE"):
        Settings()


@pytest.fixture
def settings(environment: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A migrated database whose roles have passwords; those that the roles of this server had come back."""
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        before = connection.execute("SELECT rolname, rolpassword, rolcanlogin FROM pg_authid WHERE rolname LIKE 'perpflow_%'").fetchall()
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)
    database.migrate(environment.database_url)
    yield Settings().model_copy(
        update={name: getattr(environment, name) for name in ("kafka_bootstrap_servers", "database_url", "topic_prefix", "partitions")}
    )
    with psycopg.connect(environment.database_url, autocommit=True) as connection:
        for name, password, login in before:
            value = f"'{password}'" if password else "NULL"
            connection.execute(f"ALTER ROLE {name} PASSWORD {value} {'LOGIN' if login else 'NOLOGIN'}")  # type: ignore[arg-type]


def refused(connection: psycopg.Connection, *statements: str) -> None:
    for statement in statements:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)  # type: ignore[arg-type]


DDL = (
    "CREATE TABLE public.mine (a integer)",
    "DROP TABLE quotes",
    "ALTER TABLE quotes ADD COLUMN mine integer",
    "TRUNCATE quotes",
    "CREATE ROLE mine",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "SELECT * FROM pg_authid",
    "DELETE FROM schema_migrations",
    "UPDATE table_policies SET keep = '1 day'",
    "SELECT * FROM perpflow_refresh_bars('agg_trades')",
    "COPY quotes TO PROGRAM 'cat'",
    "SELECT pg_read_file('/etc/passwd')",
)


@pytest.mark.stack
def test_the_reader_reads_everything_and_changes_nothing(settings: Settings) -> None:
    with psycopg.connect(settings.role_url("reader"), autocommit=True) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("perpflow_reader",)
        for (name,) in connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('p', 'v', 'm')"
            " OR relname IN ('instruments', 'strategies', 'sink_offsets', 'strategy_registry', 'strategy_audit', 'executor_state', 'table_policies')"
        ).fetchall():
            connection.execute(f'SELECT * FROM "{name}" LIMIT 1')  # type: ignore[arg-type]
        connection.execute("SELECT * FROM candles('X', '15m', '2024-08-08', '2024-08-09')")
        refused(
            connection,
            *DDL,
            "INSERT INTO quotes SELECT * FROM quotes",
            "UPDATE quotes SET bid_price = 1",
            "DELETE FROM quotes",
            "INSERT INTO sink_offsets VALUES ('x', 'x', 0, 0)",
            "UPDATE executor_state SET epoch = 1",
            "INSERT INTO bar_changes VALUES ('agg_trades', 1)",
            "SELECT perpflow_make_partition('quotes', '2020-01-01')",
            # Hashes of passwords and tokens, and the secret that signs tokens.
            *(f"SELECT * FROM {name}" for name in CONSOLE),
        )


@pytest.mark.stack
def test_the_writer_appends_and_cannot_change_what_is_written(settings: Settings) -> None:
    with psycopg.connect(settings.role_url("writer"), autocommit=True) as connection:
        connection.execute("INSERT INTO quotes VALUES ('X', '2020-01-01', now(), 1, 1, 1, 1, 1, 0, 0)")
        if connection.execute("SELECT FROM pg_class WHERE relname = 'quotes' AND relkind = 'p'").fetchone() is not None:
            assert connection.execute("SELECT perpflow_make_partition('quotes', '2020-01-02')").fetchone() == ("quotes_2020_01_02",)
            assert connection.execute("SELECT perpflow_make_partition('quotes', '2020-01-02')").fetchone() == (None,)
            for parent, start in (("quotes; DROP TABLE depth", "2020-01-02"), ("sink_offsets", "2020-01-01"), ("scores", "2020-01-02")):
                with pytest.raises(psycopg.errors.InvalidParameterValue):
                    connection.execute("SELECT perpflow_make_partition(%s, %s)", (parent, start))
        refused(
            connection,
            *DDL,
            "UPDATE quotes SET bid_price = 1",
            "DELETE FROM quotes",
            "DELETE FROM sink_offsets",
            "UPDATE strategy_audit SET accepted = true",
            "DELETE FROM strategy_audit",
            "INSERT INTO executor_outbox SELECT * FROM executor_outbox",
            "SELECT * FROM executor_state",
            *(f"SELECT * FROM {name}" for name in CONSOLE),
            "DROP TABLE quotes_2020_01_02",
            "DELETE FROM bar_changes",
        )


@pytest.mark.stack
def test_the_executor_has_its_journal_and_nothing_else(settings: Settings) -> None:
    with psycopg.connect(settings.role_url("executor"), autocommit=True) as connection:
        tables = [*catalogue.TOPICS, "sink_offsets", "strategy_registry"]
        refused(
            connection,
            *DDL,
            *(f"SELECT * FROM {name}" for name in tables),
            *(f"DELETE FROM {name}" for name in tables),
            "SELECT perpflow_make_partition('quotes', '2020-01-01')",
            # What was estimated is neither changed nor taken back.
            "UPDATE live_routes SET changed = true",
            "DELETE FROM live_routes",
            *(f"SELECT * FROM {name}" for name in CONSOLE),
        )
        connection.execute("INSERT INTO live_routes SELECT r.* FROM live_routes r, live_accounts a WHERE a.epoch = 1 FOR SHARE OF a")
    journal = Journal(settings.role_url("executor"), "test")
    journal.connect()
    journal.close()
    with psycopg.connect(settings.role_url("executor"), autocommit=True) as connection:
        for name in ("executor_state", "executor_outbox"):
            connection.execute(f"SELECT * FROM {name} FOR UPDATE")  # type: ignore[arg-type]
            connection.execute(f"DELETE FROM {name}")  # type: ignore[arg-type]


@pytest.mark.stack
def test_the_console_has_its_users_and_an_audit_log_that_only_grows(settings: Settings) -> None:
    with psycopg.connect(settings.role_url("console"), autocommit=True) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("perpflow_console",)
        for name in CONSOLE:
            connection.execute(f"SELECT * FROM {name}")  # type: ignore[arg-type]
        connection.execute("INSERT INTO console_audit (user_name, address, action, outcome) VALUES ('a', 'b', 'c', 'done')")
        tables = [*(name for name in catalogue.TOPICS), "executor_state", "live_accounts", "sink_offsets"]
        refused(
            connection,
            *DDL,
            *(f"SELECT * FROM {name}" for name in tables),
            *(f"DELETE FROM {name}" for name in tables),
            "UPDATE console_audit SET outcome = 'never happened'",
            "DELETE FROM console_audit",
            "TRUNCATE console_audit",
            # Names in the audit log keep their meaning.
            "DELETE FROM console_users",
            "DELETE FROM console_invitations",
            "UPDATE console_invitation_uses SET user_id = 1",
            "UPDATE console_secret SET secret = 'x'",
            "DELETE FROM console_secret",
        )
        connection.execute("SELECT * FROM risk_switch FOR UPDATE")


@pytest.mark.stack
def test_the_sink_works_as_the_writer(settings: Settings, topics: list[str]) -> None:
    """Every path of it: repeats, refused rows, new partitions, strategies; with an owner's URL that it has no use for."""
    feeder = Feeder(settings)
    feeder.fill(77, 60, odd=True)
    feeder.send("quotes", 0, value=b"garbage")
    feeder.flush()
    url = settings.database_url
    nobody = settings.model_copy(update={"database_url": f"postgresql://nobody:nothing@{url.rpartition('@')[2]}"})
    with sink_thread(nobody, batch_rows=50, until_idle=1.0) as (service, _):
        until("all is written", lambda: service.health()["rows_written"] >= sum(map(len, feeder.fed.values())) + 1, 60)
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM dead_letters WHERE value = 'garbage'").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM strategy_audit").fetchone() != (0,)
        connection.execute("DELETE FROM dead_letters WHERE value = 'garbage'")
    assert_tables_equal(settings, feeder.fed)


@pytest.mark.stack
def test_rights_are_put_right_by_the_next_migration(settings: Settings) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("GRANT ALL ON quotes TO perpflow_reader")
        connection.execute("REVOKE ALL ON trades_closed FROM perpflow_writer")
    database.migrate(settings.database_url)
    with psycopg.connect(settings.role_url("reader"), autocommit=True) as connection:
        refused(connection, "DELETE FROM quotes")
    with psycopg.connect(settings.role_url("writer"), autocommit=True) as connection:
        connection.execute("SELECT * FROM trades_closed")
