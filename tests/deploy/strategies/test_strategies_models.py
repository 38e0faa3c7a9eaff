"""``perpflow strategies models``: the models' tables from the command line."""

from __future__ import annotations

from typer.testing import CliRunner

from deploy.cli import load_app
from schemas.errors import UserError
from stream_apps.core.signals.scoring import MODELS, tables


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(load_app("strategies"), ["models", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_one_all_or_the_list() -> None:
    for name, model in MODELS.items():
        assert printed(name) == tables.markdown(model)
    assert printed("--all") == "\n".join(tables.markdown(model) for model in MODELS.values())
    lines = printed().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {name}" for name in MODELS]
    assert "core 40, bonus 60" in lines[2]


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    result = CliRunner().invoke(load_app("strategies"), ["models", "v60"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception) == f"no model 'v60' (known: {', '.join(MODELS)})"
