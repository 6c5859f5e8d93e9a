"""Programs that start from the same imports: forks of one interpreter that has made these, instead of an interpreter each."""

import json
import subprocess
import sys


FORK = """
import json, os, sys, traceback
{imports}
for name, code in json.loads(sys.argv[1]).items():
    if not (child := os.fork()):
        status = 1
        try:
            exec(code, {{"__name__": "__main__"}})
            status = 0
        except BaseException:
            print("----", name, "----", file=sys.stderr)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        print(name)
"""


def failing(interpreter: list, imports: str, codes: dict[str, str], **options) -> tuple[list[str], str]:
    """
    Run programs one after the other.

    Args:
        interpreter: Command of an interpreter, with its options.
        imports: What all programs import, in the state that they are to find the interpreter in.
        codes: Programs by name; they print nothing.
        options: Of `subprocess.run`.

    Returns:
        Names of the programs that failed, and what was printed to standard error.
    """
    options = {"capture_output": True, "text": True, "timeout": 600} | options
    interpreter = [str(word) for word in interpreter]
    if sys.platform == "linux":
        command = [*interpreter, "-c", FORK.format(imports=imports), json.dumps(codes)]
        done = subprocess.run(command, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines(), done.stderr
    each = {name: subprocess.run([*interpreter, "-c", code], **options) for name, code in codes.items()}
    return [name for name, done in each.items() if done.returncode], "".join(done.stderr for done in each.values())
