"""The command line: `python -m llm COMMAND`. Commands import heavy libraries themselves, so that help is instant."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import typer

from llm.commands import project, use
from llm.core.errors import UserError, one_line_errors
from llm.core.threads import set_torch_defaults

COMMANDS: list[Callable[..., None]] = [
    *(use.generate, use.chat, use.serve, use.predict, use.push, use.page, use.neighbours, use.windows),
    *(project.compare_models, project.compare, project.trace, project.verify_export, project.harness),
    *(project.scaling, project.learning_curve, project.use_text, project.plan, project.doctor, project.check),
    *(project.preset, project.add_task),
    *(project.summary, project.figures),
]
app = typer.Typer(
    help="Groundup: a language model from the ground up. `dvc repro` trains it; these commands inspect and use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)
app.command("params")(project.show_params)  # `params` is the name of an option of others


def run() -> None:
    """Run a command; a user's error is one line and exit code 2."""
    set_torch_defaults()
    try:
        with one_line_errors(written=[Path(), Path(tempfile.gettempdir())]):
            app()
    except UserError as error:
        print(f"llm: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
