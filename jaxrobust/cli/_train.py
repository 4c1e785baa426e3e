"""``jaxrobust train``."""

from __future__ import annotations

import functools
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxrobust import attacks, data, evaluation, losses, models, optimizers, schedules, training
from jaxrobust.batching import data_mesh, local_copy, to_float
from jaxrobust.reporting import CommandError, ResultFolder
from jaxrobust.threat import ThreatModel

from ._arguments import NORMS, length, network, network_options, read_variables
from ._train_config import Train
from ._train_report import Row, write_report

AUGMENTATIONS: dict[str, Callable[[int, int], data.Augment]] = {
    "flip": lambda size, channels: data.random_flip,
    "crop": lambda size, channels: data.random_crop,
    "resized_crop": lambda size, channels: data.random_resized_crop(size),
    "rotate": lambda size, channels: data.random_rotation(15),
    "rand_augment": lambda size, channels: data.rand_augment(),
    "erase": lambda size, channels: data.random_erasing((0.5,) * channels, (0.25,) * channels),
}
"""By name, in the order of their application; made for images of a side and a number of channels."""
WITHOUT_STATISTICS = ("gradient_norm", "foar", "soar")
"""Methods that use batch norm's running statistics and do not update them."""
WITH_BETA = {"trades": 6.0, "mart": 5.0, "gradient_norm": 1.5}
SELECTION = "robust_accuracy"
"""The measurement by which the best network is chosen."""


def train(command: Train) -> None:
    """Run the command.

    Raises:
        CommandError: for a mistake of the user's.
        Terminated: after SIGTERM, with everything saved.
    """
    _join_processes(command)
    try:
        plan = _Plan.of(command)
        with _claimed(command, plan), _quiet_checkpoints():
            plan.fit()
            if jax.process_index() == 0:
                _report(command, plan)
    except training.NonFiniteLossError as error:
        raise CommandError(str(error)) from error
    except training.Terminated as terminated:
        print(terminated)
        raise
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error


def _join_processes(command: Train) -> None:
    """Connect the processes of a run over several hosts; nothing else of JAX may be used before."""
    if command.coordinator is None:
        if command.processes is not None or command.process is not None:
            raise CommandError("--processes and --process need --coordinator HOST:PORT, or --coordinator auto")
        return
    address = None if command.coordinator == "auto" else command.coordinator
    try:
        jax.distributed.initialize(address, command.processes, command.process)
    except (ValueError, RuntimeError) as error:
        raise CommandError(f"the processes could not be connected: {error}") from error


@dataclass(frozen=True)
class _Plan:
    """What the command asks for, checked and made."""

    command: Train
    dataset: data.Dataset
    """Without the images held out, which are its test part if there are any."""
    test: data.Dataset
    model: nn.Module
    threat: ThreatModel
    generated: data.Generated | None
    epoch_steps: int

    @classmethod
    def of(cls, command: Train) -> _Plan:
        """Make and check everything that can be before training."""
        whole = data.load(command.dataset, data_dir=command.data_dir)
        dataset = _hold_out(whole, command.holdout)
        options = network_options(command.options)
        if command.precision == "bfloat16":
            options["dtype"] = jnp.bfloat16
        if command.remat:
            options["remat"] = True
        model = network(command.model, options, whole)
        radius = length(command.eps, "--eps")
        if command.method != "standard" and not radius > 0:
            raise CommandError(f"--eps must be above 0 for --method {command.method}, got {command.eps}")
        threat = NORMS[command.norm](radius, bounds=whole.bounds)
        for name in ("epochs", "batch_size", "accumulate", "evaluate_every", "attack_steps"):
            if getattr(command, name) < 1:
                raise CommandError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(command, name)}")
        if command.batch_size % (jax.device_count() * command.accumulate):
            parts = f" in {command.accumulate} parts" if command.accumulate > 1 else ""
            raise CommandError(
                f"--batch-size {command.batch_size} cannot be split over {jax.device_count()} devices{parts}; choose a "
                f"multiple of {jax.device_count() * command.accumulate}"
            )
        count = len(dataset.train_images)
        if command.batch_size > count:
            raise CommandError(f"--batch-size {command.batch_size} exceeds the {count} training images")
        generated = None
        if command.generated is not None:
            images, labels = data.open_npz(command.generated, num_classes=whole.num_classes)
            generated = data.Generated(images, labels, command.fraction)
        # Partial batches are left out: they would be compiled anew and may not be divisible among the devices.
        steps = data.steps_per_epoch(count, command.batch_size, drop_last=generated is None)
        return cls(command, dataset, whole, model, threat, generated, steps)

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.command.epochs * self.epoch_steps

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        command = self.command
        name = f"{Path(command.dataset).stem}-{command.model}-{command.method}-seed{command.seed}"
        return command.output if command.output is not None else Path("runs") / "train" / name

    @property
    def has_holdout(self) -> bool:
        """Whether a best network is chosen."""
        return len(self.dataset.train_images) < len(self.test.train_images)

    def objective(self) -> training.Objective:
        """What is minimised."""
        command, threat = self.command, self.threat
        step = threat.eps / 4 if command.step_size is None else length(command.step_size, "--step-size")
        loss: attacks.Loss = functools.partial(losses.cross_entropy, label_smoothing=command.label_smoothing)
        if command.beta is not None and command.method not in WITH_BETA:
            raise CommandError(f"--beta belongs to {', '.join(WITH_BETA)}, not to {command.method}")
        beta = WITH_BETA.get(command.method, 0.0) if command.beta is None else command.beta
        if self.mix() is not None:
            if command.method in ("trades", "mart"):
                raise CommandError(f"--mixup and --cutmix make soft labels, which {command.method} does not take")
            loss = losses.cross_entropy  # labels are smoothed before they are mixed
        pgd = attacks.pgd(threat, steps=command.attack_steps, step_size=step)
        mode: dict[str, Any] = {"attack_batch_norm": command.attack_batch_norm}
        objective: training.Objective
        if command.method == "standard":
            objective = training.standard(loss)
        elif command.method == "pgd":
            objective = training.adversarial(pgd, loss, **mode)
        elif command.method == "mixture":
            objective = training.mixture(pgd, loss=loss, **mode)
        elif command.method == "trades":
            attack = attacks.trades_pgd(threat, steps=command.attack_steps, step_size=step)
            objective = training.trades(attack, beta=beta, label_smoothing=command.label_smoothing, **mode)
        elif command.method == "mart":
            objective = training.mart(pgd, beta=beta, label_smoothing=command.label_smoothing, **mode)
        elif command.method == "mma":
            objective = training.mma(threat, maximum=threat.eps, attack=pgd, loss=loss)
        elif command.method == "gradient_norm":
            objective = training.gradient_norm(threat, penalty_weight=beta, loss=loss)
        elif command.method == "foar":
            objective = training.foar(threat, loss=loss)
        else:
            objective = training.soar(threat, loss=loss)
        return training.awp(objective, gamma=command.awp) if command.awp else objective

    def augment(self) -> data.Augment | None:
        """What is done to each image."""
        size, channels = self.dataset.image_shape[0], self.dataset.image_shape[-1]
        chosen = [make(size, channels) for name, make in AUGMENTATIONS.items() if name in self.command.augment]
        return data.compose(*chosen) if chosen else None

    def mix(self) -> data.Mix | None:
        """What is done to pairs of images."""
        command = self.command
        if not command.mixup and not command.cutmix:
            return None
        return data.mix(
            self.dataset.num_classes,
            mixup_alpha=command.mixup,
            cutmix_alpha=command.cutmix,
            label_smoothing=command.label_smoothing,
        )

    def initial_state(
        self, optimizer: optax.GradientTransformation, averaging: training.Averaging | None
    ) -> training.TrainState:
        """Random weights, or those to start from."""
        command = self.command
        example = jnp.asarray(to_float(self.dataset.train_images[:1]))
        start = None
        if command.start is not None:
            start = read_variables(command.start, self.model, self.dataset.image_shape)
        state = training.init_state(
            self.model, jax.random.key(command.seed), example, optimizer, averaging=averaging, variables=start
        )
        if start is None and state.model_state and command.method in WITHOUT_STATISTICS:
            raise CommandError(
                f"--method {command.method} leaves the running statistics of batch norm as they are: give the weights of a "
                "trained network with --start, or take a network without batch norm"
            )
        return state

    def optimizer(self) -> optax.GradientTransformation:
        """How the parameters move."""
        command = self.command
        make_schedule: dict[str, Callable[[], Any]] = {
            "constant": lambda: command.learning_rate,
            "step": lambda: schedules.step_decay(command.learning_rate, self.steps),
            "cosine": lambda: schedules.warmup_cosine(command.learning_rate, self.steps),
            "one_cycle": lambda: schedules.one_cycle(command.learning_rate, self.steps),
        }
        options: dict[str, Any] = {"weight_decay": command.weight_decay, "weight_decay_mask": models.decay_mask}
        if command.optimizer == "momentum":
            options["nesterov"] = True
        return optimizers.by_name(command.optimizer)(make_schedule[command.schedule](), **options)

    def averaging(self) -> training.Averaging | None:
        """How the parameters are averaged."""
        if self.command.averaging == "ema":
            return training.ema(warmup_steps=round(0.025 * self.steps))
        if self.command.averaging == "swa":
            return training.swa(max(1, self.steps * 3 // 4), every=self.epoch_steps)
        return None

    def network(self, state: training.TrainState) -> Any:
        """The variables that count: averaged ones, after stochastic weight averaging with statistics of their own."""
        variables = local_copy(state.averaged_variables)
        if self.command.averaging != "swa" or "batch_stats" not in variables:
            return variables
        some = itertools.islice(self.batches(0, data.Shard(0, 1)), self.epoch_steps)
        images = (to_float(jnp.asarray(batch["images"])) for batch in some)
        return training.recompute_batch_statistics(training.linen_apply(self.model), variables, images)

    def batches(self, start_step: int, shard: data.Shard | None = None) -> Iterator[Any]:
        """The training stream from a step on: this process's rows of it."""
        command = self.command
        return data.batches(
            self.dataset.train_images,
            self.dataset.train_labels,
            command.batch_size,
            seed=command.seed,
            epochs=command.epochs,
            start_step=start_step,
            drop_last=True,
            generated=self.generated,
            epoch_steps=None if self.generated is None else self.epoch_steps,
            shard=data.Shard(jax.process_index(), jax.process_count()) if shard is None else shard,
            workers=command.workers,
        )

    def measure(self, variables: Any, part: data.Dataset) -> dict[str, float]:
        """Clean accuracy, and that under 20 steps of PGD on the margin loss, in per cent."""
        logits_fn = functools.partial(self.model.apply, variables)
        arguments: Any = (logits_fn, part.test_images, part.test_labels)
        clean = evaluation.accuracy(*arguments, bounds=part.bounds)
        robust = evaluation.accuracy(*arguments, attack=self.judge, key=jax.random.key(0), bounds=part.bounds)
        return {"accuracy": clean, SELECTION: robust}

    @functools.cached_property
    def judge(self) -> attacks.Attack:
        """The held-out attack."""
        return attacks.pgd(self.threat, steps=20, loss=losses.margin)

    def fit(self) -> training.TrainState:
        """Train, or continue."""
        command, apply = self.command, training.linen_apply(self.model)
        objective, optimizer, averaging = self.objective(), self.optimizer(), self.averaging()
        step = training.make_train_step(
            apply,
            objective,
            optimizer,
            augment=self.augment(),
            mix=self.mix(),
            averaging=averaging,
            accumulate=command.accumulate,
        )
        held_out = None
        if self.has_holdout:
            held_out = training.Evaluation(
                lambda variables: {  # fractions, as training metrics are
                    name: percent / 100 for name, percent in self.measure(variables, self.dataset).items()
                },
                every=command.evaluate_every * self.epoch_steps,
                select=SELECTION,
                patience=command.patience,
            )
        elif command.patience is not None:
            raise CommandError("--patience judges by held-out images: set --holdout above 0")
        return training.fit(
            self.initial_state(optimizer, averaging),
            step,
            self.batches,
            steps=self.steps,
            directory=self.folder,
            checkpoint_every=command.checkpoint_every or self.epoch_steps,
            keep=command.keep,
            log_every=command.log_every,
            observe=self._clean_accuracy(apply) if command.method in ("pgd", "foar", "soar") else None,
            evaluation=held_out,
            network=self.network,
            tensorboard=command.tensorboard,
            mesh=data_mesh(),
        )

    def _clean_accuracy(self, apply: training.Apply) -> Any:
        """Clean training accuracy, where the method does not compute it anyway."""

        def observe(state: training.TrainState, batch: training.Batch) -> dict[str, jax.Array]:
            logits, _ = apply(state.variables, to_float(batch["images"]), train=False)
            return {"accuracy": (logits.argmax(-1) == batch["labels"]).mean(dtype=jnp.float32)}

        return observe


def _hold_out(dataset: data.Dataset, count: int | None) -> data.Dataset:
    """The data set whose test part is held out from its training images; as it is for none."""
    total = len(dataset.train_images)
    count = min(total // 10, 1024) if count is None else count
    if not 0 <= count < total:
        raise CommandError(
            f"--holdout must lie between 0 and {total - 1}, one less than the training images; got {count}"
        )
    return data.holdout(dataset, count) if count else dataset


@contextmanager
def _claimed(command: Train, plan: _Plan) -> Iterator[None]:
    """The folder, for what decides the results; on several hosts the first process claims it."""
    if jax.process_index() != 0:
        yield
        return
    shown = ("data_dir", "output", "coordinator", "processes", "process", "workers", "tensorboard", "keep", "log_every")
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(command).items()
        if name not in shown
    }
    with ResultFolder(plan.folder, settings, results=("checkpoints/*/*",)):
        yield


@contextmanager
def _quiet_checkpoints() -> Iterator[None]:
    """Without the tracebacks that Orbax prints from its threads for errors that it raises again."""
    in_thread, unraisable, logger = threading.excepthook, sys.unraisablehook, logging.getLogger("absl")
    level = logger.level

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("orbax"):
            in_thread(arguments)

    def of_callback(arguments: sys.UnraisableHookArgs) -> None:
        if str(arguments.exc_value) != "Event loop is closed":
            unraisable(arguments)

    threading.excepthook, sys.unraisablehook = of_thread, of_callback
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = in_thread, unraisable
        logger.setLevel(level)


def _report(command: Train, plan: _Plan) -> None:
    places = {"last": plan.folder} | ({"best": plan.folder / "checkpoints" / "best"} if plan.has_holdout else {})
    rows: list[Row] = []
    for name, place in places.items():
        step = training.latest_step(place)
        known = [row.accuracies for row in rows if row.step == step]  # last and best of one step are one network
        accuracies = known[0] if known else plan.measure(training.restore_variables(place), plan.test)
        rows.append(Row(name, place, step, accuracies))
    write_report(command, plan.folder, rows, test_images=len(plan.test.test_labels))
