"""The forms in which a recording is written: by the end of a file's name, or by name."""

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, cast

from jitunwind.profile.recording import Recording

Write = Callable[[Recording, bool], "str | bytes"]


class Form(NamedTuple):
    """`suffix`: how the names of such files end; `writer`: the module in this room whose `write` makes one."""

    name: str
    suffix: str
    writer: str

    def write(self, recording: Recording, with_lines: bool) -> str | bytes:
        """The recording in this form. `with_lines`: lines of one function are frames of their own."""
        module = import_module(f"jitunwind.profile.{self.writer}")  # one of them is needed
        return cast(Write, module.write)(recording, with_lines)


FORMS = {
    form.name: form
    for form in (
        Form("html", ".html", "page"),
        Form("speedscope", ".speedscope.json", "speedscope"),
        Form("collapsed", ".collapsed", "collapsed"),
        Form("gecko", ".gecko.json", "gecko"),
        Form("pprof", ".pb.gz", "pprof"),
    )
}


def form_of(path: str) -> Form | None:
    """The form that the end of a file's name says, in letters of either case; None, if it says none."""
    return next((form for form in FORMS.values() if path.lower().endswith(form.suffix)), None)
