# The README's install, in an image a kind of machine: docker build --target cpu -t audiorl . (or cuda, or tpu)
# and then: docker run --rm audiorl doctor
FROM python:3.11-slim AS env
# espeak-ng, libsndfile and FFmpeg come inside the Python packages: nothing but make is needed from the system.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home audiorl
# Another source of packages: torch in its build for CPUs saves 4 GB.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PATH=/opt/audiorl/.venv/bin:$PATH
WORKDIR /opt/audiorl
# The packages without the sources: a change of these leaves the large layers as they are.
COPY Makefile pyproject.toml constraints.txt README.md LICENSE ./
COPY audiorl_cli/__init__.py audiorl_cli/
RUN make env
ENTRYPOINT ["audiorl"]

FROM env AS cuda-env
COPY constraints-cuda.txt ./
RUN make env EXTRA=cuda

FROM env AS tpu-env
COPY constraints-tpu.txt ./
RUN make env EXTRA=tpu

# The arithmetic of the features is compiled here, for processors as this one, and not in each container.
FROM cuda-env AS cuda
COPY audiorl_cli audiorl_cli
USER audiorl
WORKDIR /home/audiorl
RUN python -c "import numpy; from audiorl_cli.data.mel import log_mel; [log_mel(numpy.ones(1), dtype=kind) for kind in ('float32', 'float16')]"

FROM tpu-env AS tpu
COPY audiorl_cli audiorl_cli
USER audiorl
WORKDIR /home/audiorl
RUN python -c "import numpy; from audiorl_cli.data.mel import log_mel; [log_mel(numpy.ones(1), dtype=kind) for kind in ('float32', 'float16')]"

FROM env AS cpu
COPY audiorl_cli audiorl_cli
USER audiorl
WORKDIR /home/audiorl
RUN python -c "import numpy; from audiorl_cli.data.mel import log_mel; [log_mel(numpy.ones(1), dtype=kind) for kind in ('float32', 'float16')]"
