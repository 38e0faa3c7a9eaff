"""``perpflow console-users``: who may log in to the console."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeVar, cast, get_args

import psycopg
import typer
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from deploy.cli import settings as surroundings
from schemas.errors import UserError
from schemas.process.service import configure_logging
from sinks.console.auth import audit, invitations, sessions, users
from sinks.console.auth.actor import Identity, command_line
from sinks.console.auth.credentials import passwords, totp
from sinks.console.auth.roles import InvitedRole, UserRole
from sinks.console.auth.users import Member
from sinks.console.database import Connection, Row
from sinks.console.http.problems import Problem

app = typer.Typer(no_args_is_help=True, help="Add, list, ban and change the users of the console; invite people.")

Answer = TypeVar("Answer")
Name = Annotated[str, typer.Argument(help="Name of the user (perpflow console-users list).")]
RoleOption = Annotated[str, typer.Option("--role", help=f"One of {', '.join(get_args(UserRole))}.")]
PasswordFile = Annotated[
    str,
    typer.Option(
        "--password-file", metavar="FILE|-", help="Read the password from the first line of a file, or of standard input (-). Default: ask."
    ),
]


@app.command(epilog="Example: perpflow console-users add anna --role owner   (asks for the password)")
def add(
    name: Name,
    role: RoleOption = "viewer",
    email: Annotated[str, typer.Option(help="E-mail address; it can be used to log in.")] = "",
    password_file: PasswordFile = "",
    missing: Annotated[bool, typer.Option("--missing", help="Leave a user of this name as it is, instead of an error.")] = False,
) -> None:
    """Add a user. From the first user on, the console needs a login."""
    chosen = _one_of(role, get_args(UserRole), "--role")
    wanted, address = users.normalized_name(name), users.normalized_email(email)
    password = _password(wanted, password_file)

    async def work(connection: Connection, who: Identity) -> bool:
        if missing and await users.by_login(connection, wanted) is not None:
            return False
        await users.create(connection, wanted, address, await passwords.hashed(password), cast(UserRole, chosen))
        await audit.record(connection, who, "user.create", wanted, None, {"role": chosen, "email": address}, audit.DONE)
        return True

    typer.echo(f"added {wanted}, {chosen}" if _run(work) else f"{wanted} is there already")


@app.command("list", epilog="Example: perpflow console-users list")
def list_() -> None:
    """List the users with role, second factor and ban."""

    async def work(connection: Connection, who: Identity) -> list[Member]:
        found: list[Member] = []
        while page := await users.page(connection, after_id=found[-1].user_id if found else 0, limit=500):
            found += page
        return found

    shown = Table("name", "e-mail", "role", "second factor", "banned", "since")
    for one in _run(work):
        shown.add_row(
            one.name, one.email or "", one.role, "yes" if one.totp else "no", "yes" if one.banned else "no", f"{one.created_at:%Y-%m-%d}"
        )
    _print(shown)


@app.command(epilog="Example: perpflow console-users ban anna")
def ban(name: Name) -> None:
    """Ban a user and end all sessions. A command is refused at once, a read within 5 seconds."""
    _set_banned(name, True)


@app.command(epilog="Example: perpflow console-users unban anna")
def unban(name: Name) -> None:
    """Lift a ban."""
    _set_banned(name, False)


@app.command(epilog="Example: perpflow console-users role anna operator")
def role(name: Name, new: Annotated[str, typer.Argument(metavar="ROLE", help=f"One of {', '.join(get_args(UserRole))}.")]) -> None:
    """Give a user another role. It holds from the next command on."""
    chosen = _one_of(new, get_args(UserRole), "role")

    async def work(connection: Connection, who: Identity) -> Member:
        member = await _member(connection, who, name)
        await users.set_role(connection, who, member, cast(UserRole, chosen))
        await audit.record(connection, who, "user.role", member.name, {"role": member.role}, {"role": chosen}, audit.DONE)
        return member

    typer.echo(f"{_run(work).name} is {chosen}")


@app.command("reset-password", epilog="Example: perpflow console-users reset-password anna --remove-totp")
def reset_password(
    name: Name,
    password_file: PasswordFile = "",
    remove_totp: Annotated[bool, typer.Option("--remove-totp", help="Also remove the second factor, e.g. of a lost phone.")] = False,
) -> None:
    """Set a new password and end all sessions of the user."""
    password = _password(users.normalized_name(name), password_file)

    async def work(connection: Connection, who: Identity) -> Member:
        member = await _member(connection, who, name)
        await users.set_password(connection, member.user_id, await passwords.hashed(password))
        if remove_totp:
            await totp.remove(connection, member.user_id)
        await sessions.revoke(connection, member.user_id)
        after = {"totp": member.totp and not remove_totp}
        await audit.record(connection, who, "user.reset", member.name, {"totp": member.totp}, after, audit.DONE)
        return member

    typer.echo(f"{_run(work).name} has a new password; all sessions are over")


@app.command(epilog="Example: perpflow console-users invite --role operator --uses 3 --days 7")
def invite(
    role: Annotated[str, typer.Option("--role", help=f"Role of who registers: one of {', '.join(get_args(InvitedRole))}.")] = "user",
    uses: Annotated[int, typer.Option(min=1, max=1_000, help="Number of people who may register with it.")] = 1,
    days: Annotated[float, typer.Option(min=0, max=3_650, help="Days until it expires. 0: never.")] = 7,
) -> None:
    """Create an invitation and print its code. A person registers with it in the console."""
    chosen = _one_of(role, get_args(InvitedRole), "--role")
    until = datetime.now(UTC) + timedelta(days=days) if days else None

    async def work(connection: Connection, who: Identity) -> str:
        row = await invitations.create(connection, cast(InvitedRole, chosen), uses, until, who.name)
        code: str = row["code"]
        after = {"role": chosen, "max_uses": uses, "days": days or None}
        await audit.record(connection, who, "invitation.create", invitations.masked(code), None, after, audit.DONE)
        return code

    typer.echo(_run(work))


@app.command("invitations", epilog="Example: perpflow console-users invitations")
def list_invitations() -> None:
    """List the newest 500 invitations."""

    async def work(connection: Connection, who: Identity) -> list[Row]:
        return await invitations.page(connection, before=None, limit=500)

    shown = Table("code", "role", "used", "status", "expires", "created by", "created")
    now = datetime.now(UTC)
    for row in _run(work):
        expires = f"{row['expires_at']:%Y-%m-%d %H:%M}" if row["expires_at"] else "never"
        used = f"{row['used']} of {row['max_uses']}"
        status = invitations.status(row, now)
        shown.add_row(row["code"], row["role"], used, status, expires, row["created_by"], f"{row['created_at']:%Y-%m-%d %H:%M}")
    _print(shown)


@app.command("disable-invitation", epilog="Example: perpflow console-users disable-invitation ABCD2345")
def disable_invitation(code: Annotated[str, typer.Argument(help="The code.")]) -> None:
    """Disable an invitation. Users who registered with it stay."""

    async def work(connection: Connection, who: Identity) -> None:
        row = await invitations.find(connection, code)
        if row is None:
            raise UserError("no such invitation (perpflow console-users invitations)")
        await invitations.disable(connection, code)
        before = {"disabled": row["disabled"]}
        await audit.record(connection, who, "invitation.disable", invitations.masked(code), before, {"disabled": True}, audit.DONE)

    _run(work)
    typer.echo("disabled")


# --- shared helpers ---------------------------------------------------------------------------------------------------


def _set_banned(name: str, banned: bool) -> None:
    async def work(connection: Connection, who: Identity) -> Member:
        member = await _member(connection, who, name)
        await users.set_banned(connection, member, banned)
        action = "user.ban" if banned else "user.unban"
        await audit.record(connection, who, action, member.name, {"banned": member.banned}, {"banned": banned}, audit.DONE)
        return member

    typer.echo(f"{_run(work).name} is {'banned' if banned else 'not banned'}")


async def _member(connection: Connection, who: Identity, name: str) -> Member:
    found = await users.by_login(connection, name)
    if found is None:
        raise UserError(f"no user {name!r} (perpflow console-users list)")
    return await users.managed(connection, who, found.user_id)


def _run(work: Callable[[Connection, Identity], Awaitable[Answer]]) -> Answer:
    """Run ``work`` in one transaction, as the role console if its password is known. Raises UserError with the reason."""
    configure_logging("warning")  # the audit log has what is done; the output is for the person or script
    url = surroundings().role_url("console")
    if not url:
        raise UserError("DATABASE_URL is not set; `perpflow stack env` prints it")
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # no login name, as in a container
        login = ""

    async def run() -> Answer:
        async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row, connect_timeout=10) as connection:
            return await work(connection, command_line(login))

    try:
        return asyncio.run(run())
    except Problem as problem:
        raise UserError(problem.detail) from None
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        raise UserError("the database has no console tables yet; first: perpflow db migrate") from None
    except psycopg.OperationalError as error:
        raise UserError(f"the database does not answer: {error}") from None


def _password(name: str, file: str) -> str:
    """Return a password from a file, standard input or the terminal. It is never an argument, which every process list would show."""
    if file == "-":
        password = sys.stdin.readline().rstrip("\r\n")
    elif file:
        try:
            password = next(iter(Path(file).read_text(encoding="utf-8").splitlines()), "")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--password-file: {file}: {type(error).__name__}") from None
    elif sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        raise UserError("there is no terminal to ask at; give --password-file FILE, or --password-file - to read standard input")
    users.check_password(password, name)
    return password


def _one_of(text: str, allowed: tuple[str, ...], what: str) -> str:
    if text not in allowed:
        raise UserError(f"{what}: expected one of {', '.join(allowed)}, got {text!r}")
    return text


def _print(shown: Table) -> None:
    # A file or pipe: wide enough that no column is cut.
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(shown)
