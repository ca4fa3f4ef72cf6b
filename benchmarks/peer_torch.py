"""The same nets, loss and Gibbs step in PyTorch, timed against ours in turns, with the same weights and equal outputs.

  python benchmarks/peer_torch.py --configs=configs/paper.py --batch=8

Needs torch, which takes a GPU where both it and JAX have one. Written plainly but as PyTorch does best: channels last,
inference mode, fused Adam, autocast (--dtype=bfloat16) or torch.compile (--torch_compile) where asked for. PyTorch's
training step draws no crops and keeps no average, ours does. "As released" is the design of Magenta's code on the same
PyTorch net: each step is fed from the host, masks cover all pitches, all notes are drawn on the host from the
probabilities that come back. Prints the largest differences and a Markdown table of ratios.
"""

import argparse
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np
import torch
from torch import nn
from torch.nn import functional
import train

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, generate, model, objective, pianoroll, tasks

COLUMNS = {
    "config": "Recipe",
    "torch_device": "PyTorch on",
    "what": "What",
    "batch": "Batch",
    "steps": "Steps",
    "ours": "Ours: median, ms",
    "torch": "PyTorch: median, ms",
    "ratio": "PyTorch / ours",
    "released": "As released / ours",
    "share_of_peak": "Ours, share of matmul peak",
}


class Layer(nn.Module):
    """Convolution (full, or depthwise and pointwise), BatchNorm, residual, activation."""

    def __init__(self, channels: int, spec: model.LayerSpec, net: config_lib.Model):
        super().__init__()
        span = [(spec.kernel - 1) * d for d in spec.dilation]
        # functional.pad counts from the last axis: pitch first, then time; an even kernel reaches right and up.
        self.pad = (span[1] // 2, span[1] - span[1] // 2, span[0] // 2, span[0] - span[0] // 2)
        self.same = spec.kernel % 2 == 1
        padding = (span[0] // 2, span[1] // 2) if self.same else 0
        options: dict[str, Any] = {"dilation": spec.dilation, "padding": padding, "bias": False}
        if spec.separable:
            splits = net.pointwise_splits if spec.features == net.num_filters else 1
            self.depthwise = nn.Conv2d(channels, channels, spec.kernel, groups=channels, **options)
            self.pointwise = nn.Conv2d(channels, spec.features, 1, groups=splits, bias=False)
        else:
            self.full = nn.Conv2d(channels, spec.features, spec.kernel, **options)
        self.separable = spec.separable
        self.norm = nn.BatchNorm2d(spec.features, net.bn_epsilon, 1 - net.bn_momentum)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None, activate: bool) -> torch.Tensor:
        if not self.same:
            x = functional.pad(x, self.pad)
        x = self.pointwise(self.depthwise(x)) if self.separable else self.full(x)
        x = self.norm(x)
        if skip is not None:
            x = x + skip
        return functional.relu(x) if activate else x


class Coconet(nn.Module):
    """Both architectures on [b, channels, t, p]."""

    def __init__(self, net: config_lib.Model):
        super().__init__()
        if net.pitch_mixing or net.beat_steps:
            name = f"model.pitch_mixing={net.pitch_mixing}, model.beat_steps={net.beat_steps}"
            raise errors.InputError(f"{name}: this peer has no such layers; choose another config")
        specs = model.layer_specs(net)
        channels = [2 * pianoroll.NUM_VOICES, *(spec.features for spec in specs)]
        self.layers = nn.ModuleList([Layer(c, spec, net) for c, spec in zip(channels, specs, strict=False)])
        if net.pitch_embedding:
            self.rows = nn.Parameter(torch.zeros(1, net.num_filters, 1, pianoroll.NUM_PITCHES))
            self.bias = nn.Parameter(torch.zeros(1, pianoroll.NUM_VOICES, 1, pianoroll.NUM_PITCHES))
        self.embedded = net.pitch_embedding

    def forward(self, roll: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Logits [b, i, t, p] of one-hot notes [b, i, t, p] and what is given of them [b, i, t]."""
        given = context[..., None].to(roll.dtype).expand_as(roll)
        x = torch.cat([roll * given, given], dim=1).contiguous(memory_format=torch.channels_last)
        skip, last = None, len(self.layers) - 1
        for n, layer in enumerate(self.layers):
            if n % 2 == 1:
                skip = x
            x = layer(x, skip if n % 2 == 0 and 0 < n < last else None, n < last)
            if n == 0 and self.embedded:
                x = x + self.rows
        return x + 10 * self.bias if self.embedded else x


def copy_weights(to: Coconet, variables: model.Variables) -> None:
    """Ours into PyTorch's layouts."""
    params, stats = (jax.tree.map(np.asarray, variables[name]) for name in ("params", "batch_stats"))

    def put(parameter: torch.Tensor, array: np.ndarray) -> None:
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(array)))

    for n, layer in enumerate(to.layers):
        ours, running = params[f"layer_{n:02d}"], stats[f"layer_{n:02d}"]["norm"]
        if layer.separable:
            put(layer.depthwise.weight, ours["depthwise"].transpose(2, 0, 1)[:, None])
            put(layer.pointwise.weight, ours["pointwise"].transpose(3, 2, 0, 1))
        else:
            put(layer.full.weight, ours["kernel"].transpose(3, 2, 0, 1))
        put(layer.norm.weight, ours["norm"]["scale"])
        put(layer.norm.bias, ours["norm"]["bias"])
        put(layer.norm.running_mean, running["mean"])
        put(layer.norm.running_var, running["var"])
    if to.embedded:
        put(to.rows, params["pitch_embedding"].T[None, :, None])
        put(to.bias, params["pitch_bias"].T[None, :, None])


def loss(logits: torch.Tensor, roll: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Nats per variable, each example weighted as `objective.nll_per_variable` does."""
    nll = -(functional.log_softmax(logits, dim=3) * roll).sum(3)
    return ((nll * target).sum((1, 2)) / target.sum((1, 2))).mean()


class Trainer:
    """PyTorch's training step on a batch that stays the same."""

    def __init__(self, net: Coconet, roll: torch.Tensor, context: torch.Tensor, config: config_lib.Train, half: bool):
        self.net, self.roll, self.context, self.clip = net.train(), roll, context, config.clip_norm
        self.optimizer = torch.optim.Adam(net.parameters(), config.learning_rate, fused=True)
        self.half = half

    def __call__(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.roll.device.type, torch.bfloat16, self.half):
            logits = self.net(self.roll, self.context)
        found = loss(logits.float(), self.roll, (~self.context).float())
        found.backward()
        if self.clip:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        self.optimizer.step()
        return float(found.detach())


class Sampler:
    """PyTorch's Gibbs step: a random block is hidden, predicted and drawn."""

    def __init__(self, net: Any, pitches: torch.Tensor, block_prob: float, temperature: float, half: bool):
        self.net, self.pitches = net, pitches  # places 0..45 [b, i, t]
        self.block_prob, self.temperature, self.half = block_prob, temperature, half

    def __call__(self) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(self.pitches.device.type, torch.bfloat16, self.half):
            block = torch.rand(self.pitches.shape, device=self.pitches.device) < self.block_prob
            roll = functional.one_hot(self.pitches, pianoroll.NUM_PITCHES).float()
            logits = self.net(roll, ~block).float() / self.temperature
            noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_min(1e-20)))
            self.pitches = torch.where(block, (logits + noise).argmax(3), self.pitches)
            return self.pitches


class Released:
    """A Gibbs step in the design of the released code, which differs from `Sampler` in what the host does."""

    def __init__(self, net: Any, pitches: torch.Tensor, block_prob: float, temperature: float, half: bool):
        self.net, self.device, self.half = net, pitches.device, half
        self.roll = functional.one_hot(pitches, pianoroll.NUM_PITCHES).float().cpu().numpy()  # [b, i, t, p]
        self.block_prob, self.temperature = block_prob, temperature
        self.rng = np.random.default_rng(0)

    def __call__(self) -> np.ndarray:
        cells = self.rng.random(self.roll.shape[:3]) < self.block_prob
        mask = np.repeat(cells[..., None], pianoroll.NUM_PITCHES, axis=3)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, self.half):
            fed = torch.from_numpy(self.roll).to(self.device), torch.from_numpy(~mask[..., 0]).to(self.device)
            logits = self.net(*fed).float() / self.temperature
            probabilities = torch.softmax(logits, dim=3).cpu().numpy()
        sums = np.cumsum(probabilities, axis=3)
        drawn = (sums < self.rng.random((*cells.shape, 1)) * sums[..., -1:]).sum(axis=3)
        notes = np.eye(pianoroll.NUM_PITCHES, dtype=np.float32)[np.minimum(drawn, pianoroll.NUM_PITCHES - 1)]
        self.roll = np.where(mask, notes, self.roll)
        return self.roll


def compare(
    recipe: str, batch: int, length: int, rounds: int, compiled: bool, dtype: Any, mesh: devices.Mesh
) -> list[dict[str, Any]]:
    """A row for training and one for sampling; complains where the nets disagree."""
    if not devices.on_cpu() and not torch.cuda.is_available():
        raise errors.InputError("JAX has an accelerator and torch none; install torch for it, or set JAX_PLATFORMS=cpu")
    device = torch.device("cpu" if devices.on_cpu() else "cuda")
    half = dtype == "bfloat16"
    config = measuring.load_recipe(recipe)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, crop_steps=length),
        model=dataclasses.replace(config.model, dtype="float32"),
        train=dataclasses.replace(config.train, batch_size=batch),
    )
    net = config.model
    rng = np.random.default_rng(0)
    variables = model.init(jax.random.key(0), net)
    variables["batch_stats"] = jax.tree.map(lambda x: x + 0.1, variables["batch_stats"])
    there = Coconet(net).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    copy_weights(there, variables)
    pitches = rng.integers(40, 80, (batch, length, 4))
    context = rng.random(pitches.shape) < 0.5
    roll = pianoroll.from_pitches(jnp.asarray(pitches))
    valid = jnp.ones((batch, length), bool)
    theirs_roll = torch.from_numpy(np.array(roll).transpose(0, 3, 1, 2)).contiguous().to(device)
    theirs_context = torch.from_numpy(context.transpose(0, 2, 1)).contiguous().to(device)

    # Both sides may round matrix products on GPUs (TF32), but for this comparison.
    rounds_products = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with jax.default_matmul_precision("highest"):
        ours = model.apply(variables, net, roll, jnp.asarray(context), valid, train=False)[0]
        logits = model.apply(variables, net, roll, jnp.asarray(context), valid, train=True)[0]
    with torch.inference_mode():
        theirs = there.eval()(theirs_roll, theirs_context).cpu().numpy().transpose(0, 2, 3, 1)
    difference = float(np.abs(np.asarray(ours) - theirs).max())
    loss_ours = float(objective.nll_per_variable(logits, roll, ~jnp.asarray(context)).mean())
    trainer = Trainer(there, theirs_roll, theirs_context, config.train, False)
    loss_difference = abs(trainer() - loss_ours)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = rounds_products
    largest = np.abs(theirs).max()
    print(f"{recipe}: logits (to {largest:.2g}) differ by {difference:.2g}, the training loss by {loss_difference:.2g}")
    if max(difference, loss_difference) > 1e-4:
        raise errors.InputError(f"{recipe}: the two nets disagree by {max(difference, loss_difference):.3g}")

    # Agreement is asked for in float32, whatever is timed.
    net = dataclasses.replace(net, dtype=dtype)
    config = dataclasses.replace(config, model=net)
    calls = 4
    plan = generate.Plan(
        variables,
        net,
        tasks.compose(length),
        config_lib.Sample(num_steps=calls - 1, block_prob_max=0.5, block_prob_min=0.5),
        micro_batch=-(-batch // mesh.size),
        num_devices=min(mesh.size, batch),
    )
    copied = Coconet(net).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    copy_weights(copied, variables)
    fast = torch.compile(there.eval()) if compiled else there.eval()
    places = torch.from_numpy(pitches.transpose(0, 2, 1) - pianoroll.MIN_PITCH).to(device)
    sampler = Sampler(fast, places, 0.5, 0.99, half)
    released = Released(fast, places, 0.5, 0.99, half)

    def sample_theirs() -> None:
        for _ in range(calls):
            sampler()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def sample_as_released() -> None:
        for _ in range(calls):
            released()

    ways: dict[Any, Callable[[], Any]] = {
        ("training step", "ours"): train.Run(config, mesh),
        ("training step", "torch"): Trainer(copied, theirs_roll, theirs_context, config.train, half),
        ("Gibbs step", "ours"): lambda: generate.samples(plan, np.arange(batch)).pitches,
        ("Gibbs step", "torch"): sample_theirs,
        ("Gibbs step", "released"): sample_as_released,
    }
    seconds, peaks = measuring.beside_peaks(ways, rounds, [dtype], mesh)
    rows = []
    for what, flops, count in (
        ("training step", measuring.training_flops(net, batch, length), 1),
        ("Gibbs step", measuring.forward_flops(net, batch, length), calls),
    ):
        found = {who: times for (of, who), times in seconds.items() if of == what}
        median = {who: measuring.median(times) / count for who, times in found.items()}
        rows.append(
            {
                "config": recipe,
                "what": what,
                "batch": batch,
                "steps": length,
                "ours": 1e3 * median["ours"],
                "torch": 1e3 * median["torch"],
                "ratio": median["torch"] / median["ours"],
                "released": median["released"] / median["ours"] if "released" in median else None,
                "share_of_peak": flops / median["ours"] / peaks[dtype],
                "dtype": dtype,
                "torch_device": device.type,
                "seconds": found,
            }
        )
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="configs/paper.py", help="recipes (default: configs/paper.py)")
    parser.add_argument("--batch", type=measuring.rounds, default=16, help="crops or chains (default: 16)")
    parser.add_argument("--length", type=measuring.rounds, default=64, help="steps of each (default: 64)")
    parser.add_argument("--rounds", type=measuring.rounds, default=5, help="turns of each (default: 5)")
    parser.add_argument(
        "--dtype", default="float32", choices=measuring.DTYPES, help="of activations (default: float32)"
    )
    parser.add_argument("--torch_compile", action="store_true", help="let torch.compile have PyTorch's sampling net")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    devices.split_cpu(devices.num_cores())
    devices.use_compile_cache()
    torch.set_num_threads(devices.num_cores())
    with errors.exit_on_input_error():
        mesh = devices.make_mesh()
        rows = []
        for recipe in args.configs.split(","):
            rows += compare(recipe, args.batch, args.length, args.rounds, args.torch_compile, args.dtype, mesh)
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        measuring.finish("peer_torch", rows, COLUMNS, args.json)


if __name__ == "__main__":
    devices.use_huge_pages()
    main()
