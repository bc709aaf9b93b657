"""A terminal that shows our output and nothing else: what libraries would write there, silenced one by one.

Errors still come through: as exceptions, or at the level each setting leaves open.
"""

import logging
import os
import warnings
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from absl import logging as absl_logging

# Read when the library is first imported; a user who has set one of them has a reason.
_ENVIRONMENT: Final = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA: an "error" for every program taken from the compilation cache; real ones raise
    "LOGGING_LEVEL_ED": "ERROR",  # EasyDeL: timings of each set-up stage, and FLOPs it cannot count for this model
    "TRANSFORMERS_VERBOSITY": "error",  # transformers: advice on configs that EasyDeL's classes extend
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # huggingface_hub: a bar for each file, in the midst of our own progress
    "ENABLE_DISTRIBUTED_INIT": "0",  # EasyDeL: joins other hosts when it is imported, which cli_pod.py has done or not
    "TOKENIZERS_PARALLELISM": "false",  # tokenizers: a warning at every fork of a worker
}

_TPU_FILES: Final = ("/dev/accel*", "/dev/vfio/[0-9]*")
_NO_CHIP: Final = "TPU_SKIP_MDS_QUERY"  # which JAX sets when it has found none
_GOOGLE: Final = "0x1ae0"  # as a PCI bus names the maker of a TPU


def silence() -> None:
    """Silence them in this process and its children. Call it before JAX, EasyDeL or transformers is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _spare_libtpu()
    # grain, which EasyDeL imports, warns of a profiler that this jaxlib is too old for. EasyDeL sets absl's level
    # itself, hence a filter.
    absl_logging.get_absl_logger().addFilter(lambda record: "Grain multiprocess" not in record.getMessage())
    # jax: it looks for accelerators it was built for and says that there are none.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    # jax: EasyDeL donates buffers that its CPU programs cannot take over; harmless, once a program.
    warnings.filterwarnings("ignore", message="Some donated buffers were not usable", category=UserWarning)
    # matplotlib: at its first start on a machine it tells that it has found the fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    # jax: a program that a killed process, or a full disk, left half kept. It is compiled again, at every start.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")


def _spare_libtpu() -> None:
    """Keep JAX from starting libtpu where it is for `audiorl plan` and no TPU is: it complains at each start, and opens
    XLA's log again."""
    if find_spec("libtpu") and not find_spec("jax_plugins") and not _of_tpus():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")


def _of_tpus() -> bool:
    """Whether anything on this machine speaks of a TPU."""
    told = any(name.startswith("TPU_") and name != _NO_CHIP for name in os.environ)
    makers = (Path(path).read_text().strip() for path in glob("/sys/bus/pci/devices/*/vendor"))
    return told or any(map(glob, _TPU_FILES)) or _GOOGLE in makers
