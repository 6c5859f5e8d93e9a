"""`fgvc-hf demo`: the demo in the browser."""

import argparse
import importlib.util


def add_demo(commands) -> None:
    """Add the command to a parser's subcommands."""
    command = commands.add_parser(
        "demo",
        help="the demo in the browser",
        description="Start the demo, and open it in the browser at the address that is printed. Only this machine can reach it.",
    )
    command.add_argument("--port", type=int, metavar="N", help="port; default: the first free one from 7860 on")
    command.add_argument(
        "--share", choices=("no", "yes"), default="no", help="ask Gradio for a public address as well; default: no"
    )
    command.set_defaults(run=run_demo)


def run_demo(arguments: argparse.Namespace) -> None:
    """Serve the demo until it is interrupted."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the demo needs Gradio: pip install "fgvc-hf[demo]"')
    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise ValueError(f"--port must be from 1 to 65535, got {arguments.port}.")
    from ..demo.stopping import ends_on_signals

    with ends_on_signals():  # from now on; the imports take seconds
        from ..demo.app import launch

        launch(port=arguments.port, share=arguments.share == "yes")


__all__ = ["add_demo"]
