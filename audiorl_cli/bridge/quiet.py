"""A terminal that shows our output and nothing else: what libraries would write there, silenced one by one.

Errors still come through: as exceptions, or at the level each setting leaves open.
"""

import logging
import os
import warnings
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


def silence() -> None:
    """Silence them in this process and its children. Call it before JAX, EasyDeL or transformers is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # grain, which EasyDeL imports, warns of a profiler that this jaxlib is too old for. EasyDeL sets absl's level
    # itself, hence a filter.
    absl_logging.get_absl_logger().addFilter(lambda record: "Grain multiprocess" not in record.getMessage())
    # jax: it looks for accelerators it was built for and says that there are none.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.ERROR)
    # jax: EasyDeL donates buffers that its CPU programs cannot take over; harmless, once a program.
    warnings.filterwarnings("ignore", message="Some donated buffers were not usable", category=UserWarning)
    # jax: a program that a killed process, or a full disk, left half kept. It is compiled again, at every start.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache entry")
