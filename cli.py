"""The program ``crosstask``: the first word names a command, and only the file of that command is imported."""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from crosstask.commands.shared.command_docs import command_names, overview
from crosstask.commands.shared.config_names import configs_folder, with_config_paths
from crosstask.commands.shared.errors import is_disk_fault, is_rejection, sentence
from crosstask.commands.shared.library_messages import show_hidden_characters, silence_libraries
from crosstask.commands.shared.program_end import (
    drop_output,
    end_by_default,
    end_on_sigterm,
    is_interruption,
    is_termination,
    reader_has_ended,
)
from crosstask.commands.shared.quick_imports import without_collections
from crosstask.commands.shared.static_help import static_help
from crosstask.datamodules.messages import nearest
from crosstask.datamodules.visible_text import visible


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: The words after ``crosstask``; those of this process if None.

    Raises:
        ValueError: There is no such command, or the command rejects its settings.
    """
    words = list(sys.argv[1:] if args is None else args)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return
    name = words[0]
    if name not in (names := command_names()):
        raise ValueError(f"no command {name!r}, {nearest(name, names)}; there are {', '.join(names)}")
    if {"-h", "--help"} & {*words[1:]} and (text := static_help(name)):
        print(text, end="")
        sys.exit()
    configs_folder()  # sets $CROSSTASK_CONFIGS, which a YAML may use
    silence_libraries()
    with_config_paths(words[1:])  # rejects an unknown name at once; the command would first import its libraries
    with without_collections():
        command = import_module(f"crosstask.commands.{name}")
    command.run(words[1:])


def program() -> None:
    """Run ``crosstask`` with this process's arguments, and report rejected settings as sentences."""
    show_hidden_characters()
    end_on_sigterm()
    try:
        main()
        sys.stdout.flush()  # at the interpreter's exit, a full disk would be an error without a sentence
    except SystemExit as error:
        if is_interruption(error):
            print("crosstask: interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        if not is_termination(error):
            raise
        print("crosstask: terminated", file=sys.stderr)
        raise SystemExit(128 + signal.SIGTERM) from None
    except KeyboardInterrupt:
        if os.environ.get("CROSSTASK_TRACEBACK"):
            raise
        print("crosstask: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_has_ended():  # e.g. `crosstask describe | head`
            drop_output()
            raise SystemExit(128 + signal.SIGPIPE) from None
        if is_disk_fault(error):
            drop_output()
        if os.environ.get("CROSSTASK_TRACEBACK") or not is_rejection(error):
            raise
        raise SystemExit(
            f"crosstask: {visible(sentence(error))}\n(CROSSTASK_TRACEBACK=1 shows the traceback.)"
        ) from None
    finally:
        end_by_default()  # Python's own exit would show tracebacks


if __name__ == "__main__":
    import_module("crosstask.cli").program()  # under its own name, by which errors of this package are recognized
