# A model server: `confide models serve`, without torch, Opacus or Flower, as an ordinary user.
#
#   docker build --tag confide-serve .
#   docker run --rm -p 8080:8080 -v "$PWD/publisher.pub:/run/publisher.pub:ro" -v "$PWD/token:/run/token:ro" \
#       confide-serve digits-cnn@champion --registry https://mlflow.example --key /run/publisher.pub \
#       --token-file /run/token
#
# Keys, tokens and certificates are mounted, never copied in. See docs/serving.md.
FROM python:3.11-slim AS build
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 \
    CONFIDE_HOME=/var/lib/confide \
    MLFLOW_DISABLE_TELEMETRY=true
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /tmp/wheels
# What serving imports, and no more: the whole of Confide would bring torch along.
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt \
        cryptography filelock mlflow-skinny numpy onnxruntime pillow platformdirs prometheus-client \
        pyarrow pydantic rich safetensors scipy starlette typer uvicorn \
        SQLAlchemy alembic \
    && pip install --no-cache-dir --no-deps /tmp/wheels/*.whl \
    && rm -r /tmp/wheels /tmp/constraints.txt \
    && useradd --uid 10001 --no-create-home confide \
    && install --directory --owner confide --mode 700 /var/lib/confide
USER 10001
WORKDIR /var/lib/confide
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/ping', timeout=2)"]
ENTRYPOINT ["confide", "models", "serve", "--host", "0.0.0.0", "--port", "8080"]
