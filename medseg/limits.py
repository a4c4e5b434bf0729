"""The largest and smallest values that are accepted, in a configuration and in what is read of plans and models.

They lie far beyond what a study needs, and where a larger value could only be a mistake or an attack: each bounds what
reading, building or running something may cost before it is noticed.
"""

from __future__ import annotations

# Voxels of a patch. What fits is decided by memory, which is reckoned for each plan: one of 1024^3 voxels takes 4 GB
# for each channel of its image alone.
MAX_PATCH_AXIS = 16_384
MAX_PATCH_VOXELS = 2**30
# In the data's unit: from electron microscopy in mm to maps of a body in um.
MAX_SPACING = 1e6
# Feature channels that a configuration may ask for; models that have fewer are read.
# oneDNN in torch 2.13 writes beyond its memory in strided 1x1 convolutions (2-D, channels-last) of fewer channels than
# a vector register holds: 8 numbers of 32 bits with AVX2.
MIN_WIDTH = 8
# Feature channels; nnU-Net's widest stage has 512.
MAX_WIDTH = 4096
MAX_STAGES = 16
# Stride or kernel of a stage, per axis.
MAX_STRIDE = 31
MAX_CHANNELS = 4096
# Channel 255 of a prepared label map is "not annotated", so that 8 bits hold all.
MAX_CLASSES = 255
# Values in label files.
MAX_LABEL = 2**32 - 1
MAX_BATCH = 65_536
MAX_STEPS = 10**9
# Learning rate and weight decay; 32 bits hold no step that is much larger.
MAX_RATE = 1e30
# The largest machines have some hundred processors; a thread more is memory of the system.
MAX_THREADS = 1024
MAX_PROCESSES = 1024
# Processes that read ahead, of each training.
MAX_WORKERS = 1024
MAX_FOLDS = 10_000
# What generators of random numbers take.
MAX_SEED = 2**63 - 1
# Data sets x models x folds x seeds x shards. Snakemake plans tens of thousands of jobs in minutes.
MAX_TRAININGS = 100_000
# Jobs that share the cases of a stage; more than the cases of most data sets.
MAX_SHARDS = 10_000
# Passes over the cases, and minutes, of a training: 19 years.
MAX_EPOCHS = 10**7
MAX_MINUTES = 1e7
# Seconds to wait for a batch: four months, which all clocks and queues can count.
MAX_WAIT_S = 1e7
# Thousand times the memory of the largest machines.
MAX_GB = 1e8
MAX_PHANTOMS = 100_000
# Of a dense CRF; it has settled after some ten.
MAX_ITERATIONS = 1000
# Voxels of a component; no file has more.
MAX_VOXELS = 2**50
# Numbers in a network: some thousand times those of the largest one for segmentation.
MAX_PARAMETERS = 10**12
# model.json names every case that its weights have seen: some 200 bytes each.
MAX_DESCRIPTION_BYTES = 1 << 26
# Of a safetensors file: names and shapes of its tensors, some 100 bytes each. The format itself allows 100 MB.
MAX_HEADER_BYTES = 1 << 24
