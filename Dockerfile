# The page in a container. Behind a proxy with TLS: see OPERATING.md. It was written without a container engine at hand:
# tests check its options, nobody has built it yet.
FROM python:3.11-slim
# A Space runs it as user 1000.
RUN useradd --create-home --uid 1000 inspector && mkdir -p /cache && chown inspector /cache
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -r requirements.txt
COPY --chown=inspector . .
USER inspector
ENV DINM_INSPECTOR_CACHE=/cache HF_HOME=/cache/hub PYTHONUNBUFFERED=1 OMP_NUM_THREADS=2
RUN python -m inspector.model.embedded > /dev/null
# Behind a proxy give FORWARDED_ALLOW_IPS, the proxy's address as the container sees it, or all visitors count as one
# address (OPERATING.md).
EXPOSE 7860 9464
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/health')"]
# Without a login or --public it refuses to start: give DINM_INSPECTOR_AUTH, or add --public to the command.
ENTRYPOINT ["python", "app.py", "--host", "0.0.0.0", "--port", "7860", "--log", "-", "--metrics", "0.0.0.0:9464"]
