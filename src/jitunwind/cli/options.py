"""Options that several verbs have."""

import click

debug_dir = click.option(
    "--debug-dir",
    "debug_dirs",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    envvar="JITUNWIND_DEBUG_DIR",
    help="Look for debug files here, too; may be given again.  [default: $JITUNWIND_DEBUG_DIR]",
)
