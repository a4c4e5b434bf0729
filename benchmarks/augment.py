"""Augmentation side by side: the recipe `nnunet` here, in batchgeneratorsv2 and in MONAI, one thread each, in one run.

    python benchmarks/augment.py [--out benchmarks/results/augment.json]

batchgeneratorsv2 is installed from the package index into an environment of its own. All get the same generated
samples, in memory, with more image around the patch; reading is not counted. Rounds alternate between the systems, each
in a process of its own, warmed up; on a CPU, time is that of the core. What counts are the ratios of the medians. Where
there is a GPU, the recipe is timed there as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PEER = ("batchgeneratorsv2>=0.3,<0.4", "torch==2.13.0")
# Name -> patch, spacing, channels, samples per batch. nnU-Net's axis order: the coarse one first.
SCENES: dict[str, tuple[tuple[int, ...], tuple[float, ...], int, int]] = {
    "volume": ((64, 64, 64), (1.0, 1.0, 1.0), 1, 4),
    "volume_two_channels": ((96, 96, 96), (1.0, 1.0, 1.0), 2, 2),
    "anisotropic": ((16, 128, 128), (4.0, 1.0, 1.0), 1, 4),
    "slice": ((256, 256), (1.0, 1.0), 1, 12),
    "colour": ((256, 256), (1.0, 1.0), 3, 12),
}
# nnU-Net reads this much more for its turns of volumes: the largest share that any of the systems looks at.
SURPLUS = 0.3
DID = {
    "medseg": "batches; per sample as much of the surroundings as its map looks at, up to 30 % on each side",
    "batchgeneratorsv2": "sample by sample, nnU-Net's parameters and dummy 2-D; surroundings of 30 % on each side",
    "monai": "sample by sample; no surroundings (zeros come in), scaling per axis, all channels of a sample at once",
}

# Run by the peer's interpreter: a process that augments and prints its samples per second.
PEER_LOOP = """
import json, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
facts = json.loads(sys.argv[1])
patch, flat = tuple(facts["patch"]), facts["coarse"] is not None
angle = np.deg2rad(facts["rotation"])
spatial = SpatialTransform(
    patch[1:] if flat else patch, patch_center_dist_from_border=0, random_crop=False, p_elastic_deform=0,
    p_rotation=0.2, rotation=(-angle, angle), p_scaling=0.2, scaling=(0.7, 1.4), p_synchronize_scaling_across_axes=1,
    bg_style_seg_sampling=False)
every = {"synchronize_channels": False, "p_per_channel": 1}
zoom = {"synchronize_channels": False, "synchronize_axes": True, "ignore_axes": (0,) if flat else None,
        "allowed_channels": None, "p_per_channel": 0.5}
gamma = {**every, "gamma": BGContrast((0.7, 1.5)), "p_retain_stats": 1}
sigma = {"blur_sigma": (0.5, 1.0), "synchronize_channels": False, "synchronize_axes": False, "p_per_channel": 0.5}
rows = [
    (0.1, GaussianNoiseTransform(noise_variance=(0, 0.1), p_per_channel=1, synchronize_channels=True)),
    (0.2, GaussianBlurTransform(**sigma, benchmark=True)),
    (0.15, MultiplicativeBrightnessTransform(multiplier_range=BGContrast((0.75, 1.25)), **every)),
    (0.15, ContrastTransform(contrast_range=BGContrast((0.75, 1.25)), preserve_range=True, **every)),
    (0.25, SimulateLowResolutionTransform(scale=(0.5, 1), **zoom)),
    (0.1, GammaTransform(p_invert_image=1, **gamma)),
    (0.3, GammaTransform(p_invert_image=0, **gamma)),
]
change = ComposeTransforms([
    *([Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform()] if flat else [spatial]),
    *[RandomTransform(t, apply_probability=p) for p, t in rows],
    MirrorTransform(allowed_axes=tuple(range(len(patch)))),
])
stored = np.load(facts["samples"])
images, labels = torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"]).to(torch.int16)[:, None]
if flat:
    # The coarse axis is not turned: no surroundings along it.
    margin = (images.shape[2] - patch[0]) // 2
    images, labels = (v[:, :, margin:margin + patch[0]].contiguous() for v in (images, labels))
def once(number):
    n = number % len(images)
    # Both start from a copy: the transforms change their input.
    return change(image=images[n].clone(), segmentation=labels[n].clone())["image"]
for number in range(facts["warm"]):
    once(number)
begun = time.process_time()
for number in range(facts["samples_timed"]):
    out = once(number)
print("rate", facts["samples_timed"] / (time.process_time() - begun))
assert tuple(out.shape[1:]) == patch, out.shape
"""


def make_environment(folder: Path) -> Path:
    """Install the peer into an environment of its own; its interpreter."""
    python = folder / "bin/python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEER], check=True)
    return python


def make_samples(scene: str, path: Path, count: int) -> None:
    """Write smooth noise of unit deviation, and label maps of four classes, with their surroundings."""
    from scipy import ndimage

    patch, _, channels, _ = SCENES[scene]
    rng = np.random.default_rng(0)
    size = [n + 2 * int(n * SURPLUS) for n in patch]
    images = rng.standard_normal((count, channels, *size), dtype=np.float32)
    images = ndimage.gaussian_filter(images, (0, 0, *[1.5] * len(patch)))
    images /= images.std()
    np.savez(path, images=images, labels=np.digitize(images[:, 0], (0, 1, 2)).astype(np.int64))


def ours(facts: dict[str, Any]) -> float:
    """Samples per second of the recipe here."""
    import torch

    from medseg.augment.policy import AUGMENTATIONS, Setting, margins
    from medseg.augment.warp import centre
    from medseg.engine.heap import keep_freed_memory

    torch.set_num_threads(1)
    patch, spacing, _, batch = SCENES[facts["scene"]]
    stored, device = np.load(facts["samples"]), facts["device"]
    images, labels = torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"])
    sets = [slice(start, start + batch) for start in range(0, len(images) - batch + 1, batch)]
    # Types as a training reads them; its process keeps freed memory, too.
    images, labels = images.to(device), labels.to(torch.uint8).to(device)
    keep_freed_memory()

    def once(number: int) -> None:
        generator, part = torch.Generator().manual_seed(number), sets[number % len(sets)]
        around = margins("nnunet", batch, patch, spacing, generator).max(axis=0).tolist()
        size = [n + 2 * m for n, m in zip(patch, around, strict=True)]
        x, y = centre(images[part], size), centre(labels[part], size)
        AUGMENTATIONS["nnunet"](x, y, generator, Setting(spacing, False, patch))

    return _rate(once, facts, batch, device)


def monai(facts: dict[str, Any]) -> float:
    """Samples per second of MONAI's transforms with the same parameters."""
    import torch
    from monai import transforms as m

    from medseg.augment.warp import centre

    torch.set_num_threads(1)
    patch = SCENES[facts["scene"]][0]
    angle = float(np.deg2rad(facts["rotation"]))
    dims, flat = len(patch), facts["coarse"] is not None
    angles = (angle,) if dims == 2 else (angle, 0.0, 0.0) if flat else (angle,) * 3
    scales = [(0.0, 0.0) if flat and a == 0 else (-0.3, 0.4) for a in range(dims)]
    both = {"keys": ("image", "label"), "mode": ("bilinear", "nearest"), "padding_mode": "zeros"}
    image, up = {"keys": "image"}, "bilinear" if dims == 2 else "trilinear"
    # The names of the axes' deviations, as this transform wants them.
    sigma = {f"sigma_{axis}": (0.5, 1.0) for axis in "xyz"[:dims]}
    change = m.Compose(
        [
            m.RandAffined(**both, prob=0.2, rotate_range=angles),
            m.RandAffined(**both, prob=0.2, scale_range=scales),
            m.RandGaussianNoised(**image, prob=0.1, std=0.1, sample_std=True),
            m.RandGaussianSmoothd(**image, prob=0.2, **sigma),
            m.RandScaleIntensityd(**image, prob=0.15, factors=0.25),
            m.RandScaleIntensityFixedMeand(**image, prob=0.15, factors=0.25, preserve_range=True),
            m.RandSimulateLowResolutiond(**image, prob=0.25, zoom_range=(0.5, 1.0), upsample_mode=up),
            m.RandAdjustContrastd(**image, prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            m.RandAdjustContrastd(**image, prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
            *[m.RandFlipd(("image", "label"), prob=0.5, spatial_axis=a) for a in range(dims)],
        ]
    ).set_random_state(0)
    stored = np.load(facts["samples"])
    images = centre(torch.from_numpy(stored["images"]), patch).contiguous()
    labels = centre(torch.from_numpy(stored["labels"]), patch)[:, None].contiguous()

    def once(number: int) -> None:
        n = number % len(images)
        change({"image": images[n], "label": labels[n]})

    return _rate(once, facts, 1, "cpu")


def _rate(once: Callable[[int], None], facts: dict[str, Any], samples: int, device: str) -> float:
    import torch

    for number in range(-(-facts["warm"] // samples)):
        once(number)
    rounds = -(-facts["samples_timed"] // samples)
    # Time of the core on a CPU, so that other programs count less; on a GPU time until it is done.
    clock = time.process_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    begun = clock()
    for number in range(rounds):
        once(number)
    if device != "cpu":
        torch.cuda.synchronize()
    return rounds * samples / (clock() - begun)


def call(command: list[str | Path]) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[-3000:]}")
    return float(done.stdout.split("rate ")[-1])


def measure(scene: str, folder: Path, peer: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of all systems in turn; samples per second, and ratios of the medians."""
    import torch

    from medseg.augment.tables import coarse_axis, table_of

    patch, spacing, channels, batch = SCENES[scene]
    samples = folder / f"{scene}.npz"
    make_samples(scene, samples, 2 * batch)
    coarse, rotation = coarse_axis(patch, spacing), table_of("nnunet", patch, spacing)["rotation"].high
    facts = {"scene": scene, "patch": patch, "coarse": coarse, "rotation": rotation, "samples": str(samples)}
    facts |= {"warm": options.warm, "samples_timed": options.samples, "device": "cpu"}
    here = [sys.executable, __file__, "--loop"]
    commands: dict[str, list[str | Path]] = {
        "medseg": [*here, "medseg", json.dumps(facts)],
        "batchgeneratorsv2": [peer, "-c", PEER_LOOP, json.dumps(facts)],
        "monai": [*here, "monai", json.dumps(facts)],
    }
    if torch.cuda.is_available():
        commands["medseg_gpu"] = [*here, "medseg", json.dumps({**facts, "device": "cuda"})]
    rates: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(options.repeat):
        for name, command in commands.items():
            rates[name].append(round(call(command), 3))
            print(scene, name, rates[name][-1], "samples/s", flush=True)
    middle = {name: float(np.median(values)) for name, values in rates.items()}
    ratios = {
        f"{name}/{other}": round(middle[name] / middle[other], 2)
        for name in middle
        for other in ("batchgeneratorsv2", "monai")
        if name.startswith("medseg")
    }
    shape = {"patch": list(patch), "spacing": list(spacing), "channels": channels, "batch": batch}
    return {**shape, "samples_per_s": rates, "load": round(os.getloadavg()[0], 1), "ratios": ratios}


def versions(peer: Path) -> dict[str, str]:
    from medseg.provenance import environment

    mine = environment()
    command = [str(peer), "-m", "pip", "list", "--format=json"]
    theirs = {r["name"].lower(): r["version"] for r in json.loads(subprocess.run(command, capture_output=True).stdout)}
    found = {k: mine[k] for k in ("medseg", "git", "python", "torch", "monai") if k in mine}
    return {**found, **{f"peer/{k}": theirs.get(k, "absent") for k in ("batchgeneratorsv2", "torch", "numpy")}}


def hardware() -> dict[str, Any]:
    import torch

    from medseg.provenance import environment

    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": environment()["processor"], "cores": os.cpu_count(), "memory_gb": memory, "gpu": gpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=list(SCENES), default=list(SCENES))
    parser.add_argument("--samples", type=int, default=200, help="samples per round")
    parser.add_argument("--warm", type=int, default=24, help="samples before the clock starts")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--environment", type=Path, help="keep the peer's environment here, or use the one there")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/augment.json")
    parser.add_argument("--loop", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        system, facts = options.loop
        print("rate", {"medseg": ours, "monai": monai}[system](json.loads(facts)))
        return
    with tempfile.TemporaryDirectory(prefix="medseg-augment-") as scratch:
        folder = Path(scratch)
        peer = make_environment((options.environment or folder / "environment").resolve())
        scenes = {scene: measure(scene, folder, peer, options) for scene in options.scenes}
        made = {"scenes": scenes, "threads": 1, "did": DID, "hardware": hardware(), "versions": versions(peer)}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(made, indent=2) + "\n")
        print(options.out.read_text())


if __name__ == "__main__":
    main()
