# The chat page with the shipped small models.
#   docker build -t anygpt-demo . && docker run -p 7860:7860 anygpt-demo
# On an NVIDIA card, with a driver for CUDA 13 and the official weights from DIR (torchaudio's wheel is built for CUDA 13 too; beside
# a torch for another CUDA it cannot be imported, and transformers with it):
#   docker build -t anygpt-demo:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu130 --build-arg EXTRA=requirements-gpu.txt .
#   docker run --gpus all -p 7860:7860 -v DIR:/app/checkpoints/anygpt-chat:ro -v anygpt-chats:/app/sessions -e ANYGPT_AUTH=me:secret \
#     anygpt-demo:cuda --family checkpoints/anygpt-chat --device cuda
# Without ANYGPT_AUTH the page is public: smaller limits, and chats go when it ends.
FROM python:3.11-slim
ARG TORCH=https://download.pytorch.org/whl/cpu
ARG EXTRA=requirements.txt
RUN apt-get update && apt-get install -y --no-install-recommends ffmpeg gcc libc6-dev libsndfile1 && rm -rf /var/lib/apt/lists/*
RUN useradd -m -u 1000 person
WORKDIR /app
COPY requirements*.txt ./
RUN pip install --no-cache-dir torch==2.13.0 --index-url ${TORCH} && pip install --no-cache-dir -r requirements.txt -r ${EXTRA}
COPY --chown=person . .
RUN mkdir -p sessions && chown person sessions
USER person
ENV GRADIO_SERVER_NAME=0.0.0.0 OMP_NUM_THREADS=2
EXPOSE 7860
ENTRYPOINT ["sh", "-c", "[ -n \"$ANYGPT_AUTH\" ] || set -- --public \"$@\"; exec python app.py \"$@\"", "app.py"]
