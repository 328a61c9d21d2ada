# rlready on a CPU. Without a command it runs the demo: which 3 of 12 checkpoints should get RL?
#   docker build -t rlready . && docker run --rm rlready
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 GIT_PYTHON_REFRESH=quiet

# The index has the CPU build of torch, which the constraints pin; PyPI's build needs CUDA.
COPY . /opt/rlready
WORKDIR /opt/rlready
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu \
      --constraint constraints.txt '.[local]' \
    && useradd --create-home --uid 1000 rlready \
    && mkdir /work \
    && chown rlready /work

USER 1000
WORKDIR /work
CMD ["rlready", "testbed", "--profile", "demo", "--out", "/work/demo"]
