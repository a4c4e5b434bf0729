# The environment of medseg's jobs, for Apptainer on a cluster (docs/cluster.md) or for one machine:
#   docker build -t medseg .
#   docker run --gpus all -v "$PWD:/study" -w /study medseg medseg run my.yaml
FROM python:3.11-slim
COPY . /source
RUN pip install --no-cache-dir --constraint /source/constraints.txt "/source[slurm]" && rm -rf /source
# Snakemake runs jobs in a shell of the image; nothing is started by itself.
CMD ["medseg", "--help"]
