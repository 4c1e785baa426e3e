"""``jaxrobust certify``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust._types import LogitsFn
from jaxrobust.batching import check_classes, to_float
from jaxrobust.certify import METHODS, interval_bounds, nonuniform, radius, search_radius
from jaxrobust.files import fingerprint
from jaxrobust.reporting import CommandError, ResultFolder
from jaxrobust.threat import ThreatModel

from ._arguments import NORMS, length
from ._certificates import Certificates, Maps
from ._certify_report import write_report
from ._config import Certify
from ._subject import Subject, read_subject, subject_name, with_network_of_run
from ._tasks import Task, run_tasks

KNOWN = (*METHODS, "envelope")
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")
"""Of which XLA says one or the other, by backend."""


def certify(command: Certify) -> None:
    """Run the command.

    Raises:
        CommandError: for a mistake of the user's.
    """
    try:
        plan = _Plan.of(with_network_of_run(command))
        with ResultFolder(plan.folder, plan.identity(), results=("state/*.npz",)):
            write_report(plan.command, plan.folder, plan.subject.images, plan.run())
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        raise CommandError(
            f"out of memory with --batch-size {command.batch_size}: choose a smaller one, or, for wide dense layers, "
            f"--rows-at-once {max(1, (command.rows_at_once or 512) // 2)}; finished batches are kept"
        ) from error
    except (ValueError, TypeError, OSError) as error:
        raise CommandError(str(error)) from error


@dataclass(frozen=True)
class _Plan:
    """What the command asks for, checked."""

    command: Certify
    subject: Subject
    threat: ThreatModel
    methods: tuple[str, ...]
    largest: ThreatModel
    """The threat model at the largest radius of the search."""

    @classmethod
    def of(cls, command: Certify) -> _Plan:
        """Check everything that can be before anything is computed."""
        methods = tuple(dict.fromkeys(name for text in command.methods for name in text.split(",") if name))
        unknown = [name for name in methods if name not in KNOWN]
        if unknown or not methods:
            raise CommandError(
                f"unknown method {unknown[0] if unknown else ''!r}; --methods takes one or several of {', '.join(KNOWN)}"
            )
        eps = length(command.eps, "--eps")
        search_to = 4 * eps if command.search_to is None else length(command.search_to, "--search-to")
        numbers = {"eps": eps, "search_to": search_to, "precision": command.precision}
        counts = {name: getattr(command, name) for name in ("rows_at_once", "maps", "map_steps")}
        for name, value in (numbers | counts).items():
            if value is not None and not value > 0:
                raise CommandError(f"--{name.replace('_', '-')} must be above 0, got {getattr(command, name)}")
        if command.search and not command.precision < search_to:
            raise CommandError(f"--precision must be below --search-to, {search_to:g} here, got {command.precision:g}")
        subject = read_subject(command, command.split)
        images = subject.images
        if images.dtype != np.uint8:
            images = to_float(images).astype(np.float32)
        threat, largest = (NORMS[command.norm](size, bounds=subject.dataset.bounds) for size in (eps, search_to))
        return cls(command, dataclasses.replace(subject, images=images), threat, methods, largest)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        split = "-train" if self.command.split == "train" else ""
        given = self.command.output
        return given if given is not None else Path("runs") / "certify" / f"{subject_name(self.command)}{split}"

    def identity(self) -> dict[str, Any]:
        """What decides the results, as JSON values. Methods and searches have files of their own."""
        command, subject = self.command, self.subject
        return {
            "weights": str(command.weights),
            "parameters": fingerprint(*jax.tree.leaves(subject.variables))[:16],
            "model": command.model,
            "options": list(command.options),
            "dataset": command.dataset,
            "split": command.split,
            "examples": command.examples,
            "images": fingerprint(subject.images, subject.labels)[:16],
            "norm": command.norm,
            "eps": self.threat.eps,
        }

    def run(self) -> Certificates:
        """Compute what is not known yet."""
        command, subject = self.command, self.subject
        images, labels = subject.images, subject.labels
        check_classes(subject.logits_fn, images[:2], labels)
        # A network without bounds fails here, before anything is written.
        one = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
        jax.eval_shape(lambda image: interval_bounds(subject.logits_fn, image, self.threat), one)

        def run(tasks: list[Task]) -> Any:
            folder, size = self.folder / "state", command.batch_size
            return run_tasks(tasks, subject.logits_fn, images, labels, folder=folder, batch_size=size)

        (clean,) = run([Task("clean", "clean", np.arange(len(images)), _predictions)])
        predictions = clean["prediction"]
        correct = np.flatnonzero(predictions == labels)  # nothing can be certified of the others
        tasks = [self._at_eps(method, correct) for method in self.methods]
        if command.search:
            tasks += [self._search(method, correct) for method in self.methods]
        if command.maps is not None:
            tasks.append(self._maps(correct[: command.maps]))
        results = run(tasks)
        maps = None
        if command.maps is not None and len(correct):
            maps = Maps(results[-1].task.rows, *(results[-1][name] for name in ("radii", "mean_radius", "uniform")))

        def by_method(begin: int, name: str, dtype: Any) -> dict[str, np.ndarray]:
            found = results[begin : begin + len(self.methods)]
            return dict(zip(self.methods, (each.of_all(name, len(images), dtype) for each in found), strict=True))

        searched = len(self.methods)
        return Certificates(
            labels=labels,
            predictions=predictions,
            eps=float(self.threat.eps),
            radii=by_method(0, "radius", np.float32),
            search_to=float(self.largest.eps) if command.search else None,
            searched=by_method(searched, "radius", np.float32) if command.search else {},
            evaluations=by_method(searched, "evaluations", np.int32) if command.search else {},
            maps=maps,
            times={found.task.text: found.times() for found in results},
        )

    def _at_eps(self, method: str, rows: np.ndarray) -> Task:
        def compute(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            arguments: Any = (logits_fn, images, labels, self.threat)
            return {"radius": radius(*arguments, method=method, rows_at_once=self.command.rows_at_once)}

        return Task(method, method, rows, compute)

    def _search(self, method: str, rows: np.ndarray) -> Task:
        precision = self.command.precision

        def compute(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            arguments: Any = (logits_fn, images, labels, self.largest)
            options: dict[str, Any] = {"precision": precision, "rows_at_once": self.command.rows_at_once}
            found = search_radius(*arguments, method=method, **options)
            return {"radius": found.radius, "evaluations": found.evaluations}

        return Task(f"search-{method}-{self.largest.eps!r}-{precision!r}", f"search by {method}", rows, compute)

    def _maps(self, rows: np.ndarray) -> Task:
        steps, bounds = self.command.map_steps, self.threat.bounds
        # The radius only says where the search may start: anywhere in the box.
        start = self.largest if bounds is None else NORMS[self.command.norm](bounds[1] - bounds[0], bounds=bounds)

        def compute(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
            arguments: Any = (logits_fn, images, labels, start)
            found = nonuniform(*arguments, steps=steps, rows_at_once=self.command.rows_at_once)
            return {"radii": found.radii, "mean_radius": found.mean_radius, "uniform": found.uniform}

        return Task(f"maps-{steps}" if bounds else f"maps-{steps}-{start.eps!r}", "robustness maps", rows, compute)


@jax.jit
def _compiled_predictions(logits_fn: Any, images: jax.Array) -> jax.Array:
    return logits_fn(images).argmax(-1).astype(jnp.int32)


def _predictions(logits_fn: LogitsFn, images: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    return {"prediction": _compiled_predictions(logits_fn, images)}
