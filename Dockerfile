# Four images from one file: the same code and the same locked packages in each, and torch in the trainers' alone.
#
#   slim        edge, aggregator, publisher, qig
#   torch-cpu   trainer on a processor: slim, and torch's CPU build
#   cuda        trainer on GPUs: slim, and torch with its CUDA libraries
#   runpod      worker on RunPod: torch-cpu, and RunPod's package; the last, since RunPod's Hub names no target
#
# `make images` builds them with docker or podman. Build arguments: PYTHON_IMAGE (Debian 12 with Python 3.11 below
# /usr/local, as python:3.11-slim-bookworm), PIP_INDEX_URL (PyPI by default), and for torch-cpu and runpod TORCH_INDEX_URL
# (an index of CPU builds; without it they hold PyPI's torch for Linux, which brings CUDA).
#
# The images hold no shell, compiler, package manager or pip: nothing that starts a process but Python.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN apt-get update && apt-get install -y --no-install-recommends binutils
RUN python3 -m venv --without-pip /opt/venv
COPY requirements.lock .
# Left out of what the packages bring: their tests, C headers, type stubs, and the symbols of their libraries, which are a
# sixth of the whole. What stands in a folder NAME.libs was moved into its wheel by patchelf, and does not survive strip.
RUN pip --python /opt/venv/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements.lock \
 && find /opt/venv -type d -name tests -prune -exec rm -r {} + \
 && find /opt/venv \( -name '*.h' -o -name '*.hpp' -o -name '*.a' -o -name '*.pyi' -o -name '*.pxd' \) -delete \
 && find /opt/venv -name '*.so*' -type f -not -path '*.libs/*' -exec strip --strip-unneeded {} +

FROM packages AS packages-torch-cpu
# Of another index torch alone is without hashes: its CPU and CUDA builds share a version and not a hash, so the version is
# what can be pinned.
ARG TORCH_INDEX_URL
COPY requirements-torch-cpu.lock .
COPY requirements-cuda.lock .
RUN if [ -n "${TORCH_INDEX_URL}" ]; then \
      pip install --target /opt/torch --no-compile --require-hashes --only-binary :all: -r requirements-torch-cpu.lock \
       && pip install --target /opt/torch --no-compile --no-deps --index-url "${TORCH_INDEX_URL}" --only-binary :all: torch==2.13.0; \
    else \
      pip install --target /opt/torch --no-compile --require-hashes --only-binary :all: -r requirements-cuda.lock; \
    fi \
 && rm -r /opt/torch/torch/include \
 && PYTHONPATH=/opt/torch /opt/venv/bin/python -c "import torch"

FROM packages AS packages-runpod
# The lock is whole; this pip would look for what is pinned without its extra (pydantic[email]) once more, unpinned.
COPY requirements-runpod.lock .
RUN pip install --target /opt/runpod --no-compile --no-deps --require-hashes --only-binary :all: -r requirements-runpod.lock

FROM packages AS packages-cuda
COPY requirements-cuda.lock .
RUN pip install --target /opt/torch --no-compile --require-hashes --only-binary :all: -r requirements-cuda.lock \
 && rm -r /opt/torch/torch/include \
 && PYTHONPATH=/opt/torch /opt/venv/bin/python -c "import torch"

FROM ${PYTHON_IMAGE} AS root
# Of the system what Python links to, by Debian package, as scanners find it in dpkg's list; of Python what runs.
RUN dpkg-query --show --showformat '${binary:Package}\n' base-files ca-certificates libbz2-1.0 libc6 libcrypt1 \
      libexpat1 libffi8 libgcc-s1 liblzma5 libsqlite3-0 libssl3 libstdc++6 libuuid1 netbase tzdata zlib1g \
      2>/dev/null > /packages; \
    mkdir -p /slim/var/lib/dpkg /slim/tmp /slim/usr/lib /slim/usr/lib64 /slim/usr/local/bin /slim/usr/local/lib \
 && chmod 1777 /slim/tmp \
 && cp -d /bin /sbin /lib* /slim/ \
 && dpkg-query --listfiles $(cat /packages) | sort -u \
      | grep -v -e '^/usr/share/doc' -e '^/usr/share/man' -e '^/usr/share/locale' -e /gconv -e '^/\.$' -e '^/lib$' -e '^/lib64$' \
      | while read -r path; do [ ! -e "$path" ] || echo "$path"; done \
      | tar --create --no-recursion --files-from - | tar --extract --directory /slim \
 && dpkg-query --status $(cat /packages) > /slim/var/lib/dpkg/status \
 && cp -r --parents /etc/ssl/certs/ca-certificates.crt /etc/ld.so.conf /etc/ld.so.conf.d /slim/ \
 && cp -a /usr/local/bin/python* /slim/usr/local/bin/ \
 && cp -a /usr/local/lib/libpython* /usr/local/lib/python3.11 /slim/usr/local/lib/ \
 && cd /slim/usr/local/lib/python3.11 \
 && rm -rf config-* ensurepip idlelib lib2to3 pydoc_data site-packages/* test tkinter turtledemo \
 && rm -f /slim/usr/local/bin/python*-config \
 && python3 -m compileall -q -l . asyncio collections concurrent ctypes email http importlib json logging re sqlite3 urllib \
 && ldconfig -r /slim
# The directories are there so that an empty volume mounted on one belongs to the user that writes into it.
RUN printf 'root:x:0:0::/:/sbin/nologin\nqig:x:10001:10001::/var/lib/qig:/sbin/nologin\n' > /slim/etc/passwd \
 && printf 'root:x:0:\nqig:x:10001:\n' > /slim/etc/group \
 && install -d -m 0700 /home/qig /home/qig/private /home/qig/trust /home/qig/edges /home/qig/trainer /cache \
      /keys /keys/private /keys/offline /keys/edges /keys/trust /keys/broker /keys/aggregator /keys/trainer /keys/operator \
 && install -d -m 0755 /keys/users \
 && printf '#!/opt/venv/bin/python\nfrom services.cli.app import main\n\nmain()\n' > /slim/usr/local/bin/qig \
 && chmod 0755 /slim/usr/local/bin/qig

FROM scratch AS base
COPY --from=root /slim /
COPY --from=root --chown=10001:10001 /home/qig /var/lib/qig
COPY --from=root --chown=10001:10001 /cache /var/cache/qig
COPY --from=root --chown=10001:10001 /keys /keys
LABEL org.opencontainers.image.title="QIG Constellation" \
      org.opencontainers.image.description="Small language-model kernels that learn from each other by signed 4 KB packets" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# The root may be read only: what Python and torch would keep beside their code goes to /tmp or nowhere. What numba
# compiled comes with the image; on a processor of another kind than the builder's it is compiled again at every start,
# unless a volume that the user may write is mounted there.
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    MALLOC_ARENA_MAX=2 \
    NUMBA_CACHE_DIR=/var/cache/qig/numba \
    HOME=/tmp \
    QIG_HOME=/var/lib/qig \
    QIG_HTTP_HOST=0.0.0.0 \
    QIG_HTTP_PORT=8000
WORKDIR /app
STOPSIGNAL SIGTERM
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=5m CMD ["qig", "health"]

FROM base AS warm
COPY --from=packages /opt/venv /opt/venv
COPY common common
COPY services services
COPY deploy/*.py deploy/
COPY data/genesis /genesis
# Bytecode of what the services import, a half of what the packages hold; what numba compiles for an edge.
ENV PYTHONDONTWRITEBYTECODE=""
RUN ["python", "-m", "compileall", "-q", "/app"]
RUN ["python", "-c", "import services.edge.app, services.aggregator.app, services.publisher.app, services.cli.ask"]
RUN ["qig", "warm", "/genesis"]

FROM base AS slim
COPY --from=warm /opt/venv /opt/venv
COPY --from=warm /app /app
COPY --from=warm --chown=10001:10001 /var/cache/qig /var/cache/qig
COPY LICENSE /app/LICENSE
USER 10001:10001
CMD ["qig", "--help"]

FROM slim AS trainer
COPY data /app/data
ENV PYTHONPATH=/app:/opt/torch \
    QIG_DATA=/app/data \
    QIG_GENESIS=/var/lib/qig/trainer/genesis
CMD ["python", "-m", "services.trainer.app"]

FROM trainer AS torch-cpu
COPY --from=packages-torch-cpu /opt/torch /opt/torch

FROM trainer AS cuda
COPY --from=packages-cuda /opt/torch /opt/torch

FROM torch-cpu AS runpod
COPY --from=packages-runpod /opt/runpod /opt/runpod
COPY .runpod/handler.py handler.py
ENV PYTHONPATH=/app:/opt/torch:/opt/runpod
HEALTHCHECK NONE
CMD ["python", "handler.py"]
