# The production image of the reference project: no compiler, no development tools, not root.
FROM python:3.13-slim AS build

# What uv.lock was made with; it installs exactly what the lock says.
RUN pip install --no-cache-dir uv==0.13.9
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/venv UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
# Dependencies change seldom, code often: two steps, two layers. Without its binary,
# imageio-ffmpeg is a few kilobytes and uses Debian's ffmpeg below.
RUN uv sync --frozen --no-install-project --no-binary-package imageio-ffmpeg \
    --extra server --extra pdf --extra video
COPY orchestrator orchestrator
RUN uv sync --frozen --no-editable --no-binary-package imageio-ffmpeg \
    --extra server --extra pdf --extra video


FROM python:3.13-slim

# --build-arg FFMPEG=no makes the image 400 MB smaller; video tasks then fail into the inbox.
ARG FFMPEG=yes
# hadolint ignore=DL3008
RUN if [ "$FFMPEG" = yes ]; then \
      apt-get update && apt-get install -y --no-install-recommends ffmpeg && rm -rf /var/lib/apt/lists/*; \
    fi
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin orchestrator \
    && install -d -o orchestrator -g orchestrator /data

COPY --from=build /venv /venv
WORKDIR /app
COPY manage.py ./
COPY tasks tasks
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DJANGO_SETTINGS_MODULE=orchestrator.settings \
    ORCHESTRATOR_DATA_DIR=/data \
    IMAGEIO_FFMPEG_EXE=/usr/bin/ffmpeg
USER 10001
VOLUME /data
EXPOSE 8000 5555
# compose.yaml gives each service its own command.
CMD ["python", "-m", "gunicorn", "orchestrator.wsgi:application", "--bind", "0.0.0.0:8000"]
