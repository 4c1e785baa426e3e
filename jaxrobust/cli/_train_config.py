"""What ``jaxrobust train`` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from jaxrobust.reporting import option

Augmentation = Literal["flip", "crop", "resized_crop", "rotate", "rand_augment", "erase"]


@dataclass(frozen=True)
class Train:
    """Train a network, plainly or adversarially, on all devices.

    Writes checkpoints (the last states, and the best network by a held-out attack), metrics.jsonl, report.md with learning
    curves, config.json and timings.jsonl. A run that is interrupted, killed or terminated continues when the same command is given
    again, and ends with the same network as one that was left alone. SIGTERM saves and exits with code 75.

    Example: jaxrobust train --dataset mnist --model small_cnn --method trades --eps 0.2 --output runs/mnist_trades
    """

    # What is learned
    dataset: Annotated[str, option("NAME|FOLDER|FILE")] = "digits"
    """Data set: digits, digits_dct16, digits28 (bundled), mnist, cifar10 and others (prepared with TFDS), a folder with train/CLASS/*.jpg and test/CLASS/*.jpg, or an npz file with train_images, train_labels, test_images and test_labels."""
    model: Annotated[str, option("NAME")] = "small_cnn"
    """Network: linear, mlp, small_cnn, cnn4, cnn6, cnn8, preact_resnet18, resnet10, resnet18, resnet50, wide_resnet, wrn_28_10, wrn_34_10, vit_small, vit_b16, swin_t, swin_b, convnext_tiny, convnext_base, m5."""
    options: Annotated[tuple[str, ...], option("NAME=VALUE ...", "the network's own")] = ()
    """Options of the network, e.g. --options widths=256,128 or --options depth=16 width=4 mean=0.49,0.48,0.45 std=0.25,0.24,0.26."""
    holdout: Annotated[int | None, option("N", "a tenth, at most 1024")] = None
    """Training images held out for choosing the best network; 0 trains on all, and no best network is kept."""
    generated: Annotated[Path | None, option("FILE", "none")] = None
    """npz file with generated images (image, label) that fill a part of every batch; read from disk as needed."""
    fraction: float = 0.8
    """Share of generated images in a batch."""
    augment: Annotated[tuple[Augmentation, ...], option("|".join(get_args(Augmentation)) + " ...", "none")] = ()
    """Augmentation, in this order: flip (left to right), crop (4 pixels of padding), resized_crop (8 to 100 % of the area), rotate (up to 15 degrees), rand_augment (RandAugment of RGB images, 2 operations of magnitude 9), erase (a quarter of the images lose a rectangle)."""
    mixup: float = 0.0
    """Mix pairs of images, and their labels, with a share from Beta(A, A); 0.8 is usual, 0 leaves it out."""
    cutmix: float = 0.0
    """Put a rectangle of one image into another, of a share from Beta(A, A); 1.0 is usual. With --mixup each batch takes one of the two."""
    start: Annotated[Path | None, option("RUN|FILE", "random weights")] = None
    """Weights to start from: a run's folder or checkpoint, safetensors, npz or PyTorch's. SOAR and gradient_norm were published as fine-tuning."""

    # The method
    method: Literal["standard", "pgd", "mixture", "trades", "mart", "mma", "gradient_norm", "foar", "soar"] = "pgd"
    """standard: no attack. pgd: adversarial training. mixture: half clean, half adversarial loss. trades, mart. mma: examples attacked as far as their margin, at most eps. Without attack steps, by input derivatives: gradient_norm, foar, soar (its judge is AutoAttack: jaxrobust evaluate)."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the threat model."""
    eps: Annotated[str, option("RADIUS")] = "8/255"
    """Radius of the threat model, for pixels in [0, 1]: a number or a fraction."""
    attack_steps: int = 10
    """Steps of the training attack."""
    step_size: Annotated[str | None, option("LENGTH", "eps/4")] = None
    """Step size of the training attack."""
    beta: Annotated[float | None, option("WEIGHT", "trades 6, mart 5, gradient_norm 1.5")] = None
    """Weight of the robust part of TRADES or MART, or of the gradient norm in units of eps."""
    awp: float = 0.0
    """Adversarial weight perturbation: relative size, such as 0.005; 0 leaves it out."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy."""
    attack_batch_norm: Literal["running", "batch"] = "running"
    """Batch norm during training attacks: evaluation mode, or statistics of the attacked batch. Running statistics are never touched."""

    # The optimizer
    optimizer: Literal["sgd", "momentum", "adam", "rmsprop", "sign_sgd", "adagrad", "adamw"] = "momentum"
    """Optimizer, with PyTorch's semantics; momentum is SGD with Nesterov momentum 0.9."""
    learning_rate: float = 0.1
    """Largest learning rate."""
    schedule: Literal["constant", "step", "cosine", "one_cycle"] = "one_cycle"
    """Learning rate over the run: constant; a tenth at 50 % and a hundredth at 75 %; warm-up over 5 % and cosine to zero; one cycle (a rise over 2.5 % of the run, then a cosine)."""
    weight_decay: float = 5e-4
    """Weight decay of everything but the scales and biases of norms."""
    epochs: int = 30
    """Passes over the training images."""
    batch_size: int = 128
    """Images per update, of all devices together."""
    averaging: Literal["none", "ema", "swa"] = "ema"
    """Averaging of the parameters: exponential (0.995, with a warm-up over 2.5 % of the run), or stochastic weight averaging over the last quarter, an average per epoch."""

    # The machine
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the network's computation. Parameters, logits and attack steps are float32 in any case."""
    accumulate: int = 1
    """Parts into which each batch is split to save memory."""
    remat: bool = False
    """Compute activations again on the way back instead of keeping them (residual networks)."""
    coordinator: Annotated[str | None, option("HOST:PORT", "one process")] = None
    """Several processes: address of the first one, or 'auto' where the cluster tells (TPU pods, Slurm)."""
    processes: Annotated[int | None, option("N", "told by the cluster")] = None
    """Number of processes."""
    process: Annotated[int | None, option("I", "told by the cluster")] = None
    """Number of this process, from 0."""
    workers: int = 2
    """Threads that read images."""
    data_dir: Annotated[Path | None, option("FOLDER", "TFDS_DATA_DIR, else TFDS's own")] = None
    """Folder of prepared TFDS data sets."""

    # The run
    seed: int = 0
    """Decides initialisation, order of images, augmentation and attacks."""
    evaluate_every: int = 1
    """Epochs between held-out evaluations."""
    patience: Annotated[int | None, option("N", "never")] = None
    """Stop after so many evaluations without a new best."""
    checkpoint_every: Annotated[int | None, option("STEPS", "an epoch")] = None
    """Updates between checkpoints."""
    keep: int = 2
    """Checkpoints of the last states that stay on disk."""
    log_every: int = 20
    """Updates between records."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra 'tensorboard')."""
    output: Annotated[Path | None, option("FOLDER", "runs/train/...")] = None
    """Folder for checkpoints, metrics and report."""
