"""Images on their way through a teacher: read and checked, a few at a time, the next ones while the teacher works."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ray_lidarseg import storage
from ray_lidarseg.datasets.image_files import read_rgb
from ray_lidarseg.errors import DataError
from ray_lidarseg.sample import CameraImage


def read_image(camera: CameraImage) -> UInt8[np.ndarray, "H W 3"]:
    """The decoded RGB image of a camera.

    Raises:
        DataError: It is truncated or no image, or of another size than its calibration is for.
        StorageError: It cannot be read.
    """
    origin = camera.uri or camera.name
    data = camera.image or storage.read_bytes(camera.uri)
    image = read_rgb(data, origin)
    height_px, width_px, _ = image.shape
    if (width_px, height_px) != (camera.width_px, camera.height_px):
        raise DataError(
            f"{origin} has {width_px} x {height_px} pixels, its calibration is for {camera.width_px} x "
            f"{camera.height_px}: give the original image, or correct width and height in the index"
        )
    return image


@dataclass
class Clock:
    """Seconds spent inside the teacher."""

    seconds: float = 0.0


def each_image(
    jobs: Sequence[Any],
    read: Callable[[Any], dict[str, Any]],
    call: Callable[[list[dict[str, Any]]], list[Any]],
    finish: Callable[[dict[str, Any], Any], Any],
    batch: int,
    threads: int,
    clock: Clock,
) -> Iterator[tuple[Any, Any]]:
    """Each job with what became of it: the value of ``finish``, or the exception that ``read``, ``call`` or it raised.

    Batch i + 1 is read, and batch i - 1 finished, by threads while batch i is in the teacher; never more than three
    batches of images are in memory. A batch that the teacher refuses, or that does not fit the device's memory, is
    tried image by image, so that one bad image costs itself. A device that is lost to the process ends the process: Ray
    starts another and tries the group again.

    Args:
        jobs: Any descriptions of images.
        read: A job's inputs.
        call: The teacher, on the inputs of a batch; as many outputs.
        finish: From an image's inputs and output to what is kept.
        batch: Images in one call.
        threads: For reading and finishing.
        clock: Is told the time inside ``call``.
    """
    batches = [jobs[first : first + batch] for first in range(0, len(jobs), batch)]
    finishing: deque[list[tuple[Any, Any]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        reading = [[pool.submit(read, job) for job in batches[0]]] if batches else []
        for number, chosen in enumerate(batches):
            inputs = [_outcome(future) for future in reading.pop()]
            if number + 1 < len(batches):
                reading.append([pool.submit(read, job) for job in batches[number + 1]])
            outputs = _called(inputs, call, clock)
            finishing.append(
                [
                    (job, output if isinstance(output, Exception) else pool.submit(finish, given, output))
                    for job, given, output in zip(chosen, inputs, outputs, strict=True)
                ]
            )
            while len(finishing) > 1:
                yield from ((job, _outcome(what)) for job, what in finishing.popleft())
        for pairs in finishing:
            yield from ((job, _outcome(what)) for job, what in pairs)


def _called(inputs: list[Any], call: Callable[[list[dict[str, Any]]], list[Any]], clock: Clock) -> list[Any]:
    good = [given for given in inputs if not isinstance(given, Exception)]
    outputs = iter(_timed(good, call, clock)) if good else iter(())
    return [given if isinstance(given, Exception) else next(outputs) for given in inputs]


def _timed(inputs: list[Any], call: Callable[[list[dict[str, Any]]], list[Any]], clock: Clock) -> list[Any]:
    import torch

    started = time.perf_counter()
    try:
        return call(inputs)
    except torch.AcceleratorError as error:  # every later call would fail, too
        print(f"the device is lost, this worker starts anew: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    except Exception as error:  # whatever it is: a teacher's complaint is a result of the frame
        if len(inputs) == 1:
            return [error]
    finally:
        clock.seconds += time.perf_counter() - started
    return [output for given in inputs for output in _timed([given], call, clock)]


def _outcome(what: Any) -> Any:
    if not isinstance(what, Future):
        return what
    error = what.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error if error is not None else what.result()
