"""JAX's backend, started before EasyDeL is imported: what keeps it from starting is one line."""

import os
import sys
import warnings
from tempfile import TemporaryFile
from typing import Final

from audiorl_cli import caches
from audiorl_cli.bridge.quiet import silence
from audiorl_cli.errors import InstallError

_EXTRAS: Final = "install the extra for this hardware: pip install '.[cuda]' or '.[tpu]'"


def load() -> None:
    """Import JAX, quietly and with folders to write to.

    Raises InstallError where a library finds no folder, and for XLA_FLAGS and settings in the environment that XLA and
    JAX do not know.
    """
    caches.prepare()
    silence()
    _check_flags()
    try:
        import jax  # noqa: F401 - it reads and checks its settings when it is imported
    except ValueError as error:
        names = ", ".join(sorted(name for name in os.environ if name.startswith("JAX_")))
        raise InstallError(
            f"environment ({names})", expected="settings that JAX knows", got=_first_line(error), fix="Correct them."
        ) from error


def start() -> None:
    """Let JAX start on the devices that the environment asks for. Processes of a run have joined by then.

    Raises InstallError as `load`, and where the backend does not start.
    """
    load()
    import jax

    told = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # AssertionError: none of the platforms asked for has a plug-in
        raise InstallError(
            f"JAX_PLATFORMS={told}" if told else "JAX",
            expected="a backend that starts",
            got=_first_line(error).partition(" (set JAX_PLATFORMS")[0] or "no plug-in for it",
            fix=f"Unset JAX_PLATFORMS, or {_EXTRAS}. See audiorl doctor.",
        ) from error


def without_settings() -> None:
    """Leave out of the environment what `start` raises for, and let JAX start on the CPU."""
    for name in [name for name in os.environ if name.startswith("JAX_") or name == "XLA_FLAGS"]:
        del os.environ[name]
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")


def _check_flags() -> None:
    """Raise InstallError for XLA_FLAGS that XLA does not know: it would end this process where it reads them."""
    flags = os.environ.get("XLA_FLAGS")
    if not flags or "jax" in sys.modules:  # JAX reads them when it is imported
        return
    from jaxlib import xla_client

    with TemporaryFile() as complaints, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads, which the child does without
        child = os.fork()
        if child == 0:
            os.dup2(complaints.fileno(), 2)
            xla_client.CompileOptions()  # reads the flags
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        complaints.seek(0)
        said = complaints.read().decode("utf-8", "replace")
    # F1127 23:34:22.732112   32754 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --xla_foo=1
    found = [line.partition("] ")[2] for line in said.splitlines() if line.startswith("F") and "] " in line]
    raise InstallError(
        f"XLA_FLAGS={flags}", expected="flags that XLA knows", got=(found or ["others"])[-1], fix="Correct XLA_FLAGS."
    )


def exhausted(error: BaseException) -> InstallError | None:
    """What a user is told of an `error` that says that memory has run out, of a device or of the host; else None."""
    if isinstance(error, MemoryError):
        return InstallError("this machine", expected="enough memory", got="none left", fix=_LESS)
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(error, jax.errors.JaxRuntimeError) or "RESOURCE_EXHAUSTED" not in str(error):
        return None
    return InstallError("memory of the device", expected="enough of it", got=_first_line(error), fix=_LESS)


_LESS: Final = (
    "Hold less at a time: smaller batches and completions, [memory] or [mesh] of the config, train.dtype=bfloat16; "
    "a run goes on from its newest checkpoint."
)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else ""
