# The bus as an image: `docker build -t esb .`, or `docker compose up` with all that it needs to try.
# Your own project goes to /project: routes/, transforms/, and data/ for the messages it keeps.

FROM python:3.13-slim-bookworm AS build
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/esb
WORKDIR /src
# The dependencies alone first: they change seldom, so this layer is mostly there already.
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --all-extras --no-install-project
COPY README.md LICENSE ./
COPY esb esb
COPY adapters adapters
RUN uv sync --locked --no-dev --all-extras --no-editable

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin esb \
    && install -d -o esb -g esb /project /project/data
COPY --from=build /opt/esb /opt/esb
WORKDIR /project
COPY routes routes
COPY transforms transforms
COPY examples/legacy examples/legacy
ENV PATH=/opt/esb/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ESB_HOST=0.0.0.0
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
VOLUME /project/data
# The admin port stays on loopback, which in a container is the container alone; `docker exec` runs
# the commands in there. To open it say who may (`admin: {host: 0.0.0.0, auth: ...}`).
EXPOSE 8080
# SIGTERM drains: give it the 25 s that messages in flight may take.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8081/readyz', timeout=4)"]
ENTRYPOINT ["esb"]
CMD ["run", "--json"]
