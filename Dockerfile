# The README's install, in an image: docker build -t audiorl . && docker run --rm audiorl doctor
FROM python:3.11-slim

# espeak-ng, libsndfile and FFmpeg come inside the Python packages: nothing else is needed from the system.
WORKDIR /opt/audiorl
COPY constraints.txt pyproject.toml README.md LICENSE Makefile ./
COPY audiorl_cli ./audiorl_cli
RUN apt-get update \
 && apt-get install --yes --no-install-recommends make gcc g++ \
 && rm -rf /var/lib/apt/lists/* \
 && make env

RUN useradd --create-home audiorl
USER audiorl
WORKDIR /home/audiorl
ENTRYPOINT ["/opt/audiorl/.venv/bin/audiorl"]
