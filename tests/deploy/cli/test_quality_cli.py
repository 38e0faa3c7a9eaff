"""``perpflow quality FILE`` and refusals; what it shows of the topic is tested with the monitor itself."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from deploy.cli import load_app
from schemas.errors import UserError
from tests.support.paths import DATA

FOLDER = DATA / "depth_gap_csv"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(load_app("quality"), [*arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result.exit_code, result.output


def test_a_faulty_file_is_told_line_by_line_and_leaves_with_one() -> None:
    code, shown = run(str(FOLDER / "trxusdt_usdm_merged_negative.csv.gz"))
    assert code == 1 and "3 faults" in shown
    for words in (("146", "time_backwards", "8799938"), ("147", "split_message"), ("5667-5691", "altered_id", "7267631291191")):
        assert any(all(word in line for word in words) for line in shown.splitlines()), words


def test_clean_files_leave_with_zero() -> None:
    code, shown = run(*(str(path) for path in sorted(FOLDER.glob("*trade_stream_positive*"))))
    assert code == 0 and shown.count("0 faults") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"), [(["--since", "10"], "--since"), (["--since", "0m"], "--since"), (["/nowhere.csv"], "nowhere")]
)
def test_what_cannot_be_done_says_why(arguments: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        run(*arguments)


def test_the_monitor_refuses_rules_that_cannot_be() -> None:
    result = CliRunner().invoke(load_app("monitor"), ["--expect", "trades"])
    assert isinstance(result.exception, UserError) and "trades" in str(result.exception)
