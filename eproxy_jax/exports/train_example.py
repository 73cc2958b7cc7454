"""Train the network of NETWORK_FILE on labelled images: SGD with momentum, a cosine schedule, checkpoints, resume.

  python train.py                                   synthetic images, about a minute on a CPU
  python train.py --data images.npz --epochs 100    arrays x [N, H, W, 3] and y [N]; 10 % of them are held out
  python train.py --data cifar-10-batches-py        the folder of CIFAR-10's Python version, or of CIFAR-100's

Start it again with the same flags to go on from the last checkpoint. It needs jax, flax, optax and numpy.
"""

import argparse
import importlib.util
import pickle
import time
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax

IMAGE_SIZE, NUM_CLASSES = 32, 10  # of the exported network
HERE = Path(__file__).resolve().parent


def parse_flags():
    """Read the flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--network", default=str(HERE / "NETWORK_FILE"), help="file with the class Network")
    flags.add_argument("--data", help=".npz with x and y, or a CIFAR folder; default: synthetic images")
    flags.add_argument("--workdir", default=".", help="folder of the checkpoint")
    flags.add_argument("--epochs", type=int, default=5)
    flags.add_argument("--batch-size", type=int, default=64)
    flags.add_argument("--lr", type=float, default=0.1, help="highest learning rate")
    flags.add_argument("--weight-decay", type=float, default=5e-4)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--max-steps", type=int, help="stop this session after so many steps")
    return flags.parse_args()


# --- data --------------------------------------------------------------------------------------------------------


def synthetic(num=640, size=IMAGE_SIZE, classes=NUM_CLASSES, seed=0):
    """Make noisy waves; the class is their direction: x [num, size, size, 3], y [num]."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=num)
    angle = (np.pi * y / classes)[:, None, None]
    rows, columns = np.mgrid[:size, :size] / size
    wave = np.sin(12 * (np.cos(angle) * rows + np.sin(angle) * columns) + rng.uniform(0, 6, (num, 1, 1)))
    x = wave[..., None] + rng.normal(0, 0.5, (num, size, size, 3))
    return x.astype(np.float32), y


def cifar(folder):
    """Read the Python version of CIFAR-10 or CIFAR-100: training and test images."""
    names = [f"data_batch_{n}" for n in range(1, 6)] if (folder / "data_batch_1").exists() else ["train"]
    parts = []
    for group in (names, ["test_batch" if len(names) > 1 else "test"]):
        rows = []
        for name in group:
            with (folder / name).open("rb") as file:
                rows.append(pickle.load(file, encoding="bytes"))  # read only files that you trust
        x = np.concatenate([row[b"data"] for row in rows]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        y = np.concatenate([row.get(b"labels", row.get(b"fine_labels")) for row in rows])
        parts.append((x, y))
    return parts


def load(path):
    """Return (x, y) for training and for evaluation, standardised by the training images' channels."""
    if path is not None and Path(path).is_dir():
        (x, y), (test_x, test_y) = cifar(Path(path))
    else:
        if path is None:
            x, y = synthetic()
        else:
            with np.load(path) as arrays:
                x, y = arrays["x"], arrays["y"]
        order = np.random.default_rng(0).permutation(len(x))
        held = max(1, len(x) // 10)
        (test_x, test_y), (x, y) = (x[order[:held]], y[order[:held]]), (x[order[held:]], y[order[held:]])
    mean, std = x.mean((0, 1, 2), keepdims=True), x.std((0, 1, 2), keepdims=True) + 1e-6
    scaled = [((part - mean) / std).astype(np.float32) for part in (x, test_x)]
    return (scaled[0], y.astype(np.int32).ravel()), (scaled[1], test_y.astype(np.int32).ravel())


def augmented(rng, x):
    """Shift each image by up to an eighth of its size, and mirror half of them."""
    pad = x.shape[1] // 8
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = np.empty_like(x)
    for n, (top, left) in enumerate(rng.integers(0, 2 * pad + 1, (len(x), 2))):
        image = padded[n, top : top + x.shape[1], left : left + x.shape[2]]
        out[n] = image[:, ::-1] if rng.random() < 0.5 else image
    return out


# --- training ----------------------------------------------------------------------------------------------------


def main():
    """Train, evaluate after each epoch, and write a checkpoint."""
    flags = parse_flags()
    spec = importlib.util.spec_from_file_location("network", flags.network)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (x, y), (test_x, test_y) = load(flags.data)
    network = module.Network(num_classes=int(max(y.max(), test_y.max(), NUM_CLASSES - 1)) + 1)
    batch = min(flags.batch_size, len(x))
    per_epoch = len(x) // batch
    schedule = optax.cosine_decay_schedule(flags.lr, max(1, flags.epochs * per_epoch))
    decay = optax.add_decayed_weights(flags.weight_decay, lambda p: jax.tree.map(lambda a: a.ndim > 1, p))
    optimizer = optax.chain(decay, optax.sgd(schedule, momentum=0.9, nesterov=True))

    @jax.jit
    def start(key):
        variables = network.init(key, x[:1])
        state = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        return {**state, "optimizer": optimizer.init(state["params"]), "step": jnp.zeros((), jnp.int32)}

    @jax.jit
    def train_step(state, images, labels):
        def loss_of(params):
            variables = {"params": params, "batch_stats": state["batch_stats"]}
            logits, updates = network.apply(variables, images, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, updates.get("batch_stats", {})

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
        updates, optimizer_state = optimizer.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        after = {"params": params, "batch_stats": stats, "optimizer": optimizer_state, "step": state["step"] + 1}
        return after, loss

    @jax.jit
    def predict(state, images):
        variables = {"params": state["params"], "batch_stats": state["batch_stats"]}
        return network.apply(variables, images, train=False).argmax(-1)

    state = start(jax.random.key(flags.seed))
    checkpoint = Path(flags.workdir) / "checkpoint.msgpack"
    if checkpoint.exists():
        state = flax.serialization.from_bytes(state, checkpoint.read_bytes())
        print(f"goes on from step {int(state['step'])} of {checkpoint}", flush=True)

    def save():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        draft = checkpoint.with_suffix(".draft")
        draft.write_bytes(flax.serialization.to_bytes(jax.device_get(state)))
        draft.replace(checkpoint)  # whole or not at all

    done, began = 0, time.monotonic()
    told = began
    for epoch in range(int(state["step"]) // per_epoch, flags.epochs):
        rng = np.random.default_rng((flags.seed, epoch))  # one epoch's order does not depend on where it was resumed
        order = rng.permutation(len(x))[: per_epoch * batch].reshape(per_epoch, batch)
        losses = []
        for number, rows in enumerate(order):
            images = augmented(rng, x[rows])
            if number < int(state["step"]) - epoch * per_epoch:
                continue  # done before the resume
            state, loss = train_step(state, images, y[rows])
            losses.append(float(loss))
            done += 1
            if time.monotonic() - told > 10:
                told = time.monotonic()
                print(f"step {int(state['step'])}/{flags.epochs * per_epoch}  loss {losses[-1]:.3f}", flush=True)
            if done == flags.max_steps:
                save()
                print(f"stopped at step {int(state['step'])}, loss {losses[-1]:.3f}", flush=True)
                return
        right = [np.mean(np.asarray(predict(state, test_x[n : n + 64])) == test_y[n : n + 64])
                 * len(test_y[n : n + 64]) for n in range(0, len(test_x), 64)]  # fmt: skip
        save()
        seconds = time.monotonic() - began
        print(f"epoch {epoch + 1}/{flags.epochs}  loss {np.mean(losses):.3f}  "
              f"accuracy {sum(right) / len(test_x):.3f}  {seconds:.0f} s", flush=True)  # fmt: skip
    print(f"done: step {int(state['step'])}, {checkpoint}")


if __name__ == "__main__":
    main()
