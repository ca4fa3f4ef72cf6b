"""An LSTM that writes chorales event after event: the network, its law of scores, the bodies that train it.

The network hears one token after another (`events`) and gives a law of the next. What the encoding forbids has
probability 0. A piece or crop of t steps is the beginning of an endless one: its last wait counts with the probability
of that wait or any longer one. So the probabilities of all arrays of t steps add up to 1, and `log_probs` is that of
the pitches themselves, whatever strings there are; the length is given, as it is to Coconet.

The bodies (`train_step`, `estimate_statistics`, `eval_step`) are written for one device, as those of Coconet (`steps`).
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, Final, NamedTuple, get_args

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from coconet_jax import checkpoint, data, devices, errors, events, model, pianoroll, steps
from coconet_jax import config as config_lib
from coconet_jax import state as state_lib

PHASES: Final = 16  # steps after which the place in time that the network hears begins again: a bar of 4/4
_NEVER: Final = -1e9  # logit of what is forbidden


@dataclasses.dataclass(frozen=True)
class Lstm:
    """The network."""

    order: events.Order = "high_to_low"  # of the voices at one moment
    num_layers: int = 1
    num_units: int = 256
    dropout: float = 0.3  # share of each layer's outputs that is silent during a whole training crop
    # Besides the last token, the network hears what the tokens so far add up to: the sounding pitches and the place
    # in a bar, counted from the start of the crop. Without it, it has to keep count itself.
    hears_position: bool = True
    # Tokens that a training crop may have for each of its steps; what is beyond is left out of the loss. Of the
    # crops of 128 steps of Bach's chorales none has more than 1.9.
    events_per_step: float = 2.0

    def __post_init__(self) -> None:
        checks = {
            "order": (self.order in get_args(events.Order), f"use one of {', '.join(get_args(events.Order))}"),
            "num_layers": (1 <= self.num_layers <= 100, "use 1 to 100"),
            "num_units": (1 <= self.num_units <= 2**16, "use 1 to 65536"),
            "dropout": (0 <= self.dropout < 1, "use a value in [0, 1)"),
            "events_per_step": (0 < self.events_per_step <= events.SLOTS, f"use a value in (0, {events.SLOTS}]"),
        }
        for name, (good, remedy) in checks.items():
            if not good:
                raise errors.InputError(f"model.{name}={getattr(self, name)!r}: {remedy}")


@dataclasses.dataclass(frozen=True)
class Config(config_lib.Run):
    """A training run."""

    model: Lstm = Lstm()


class Memory(NamedTuple):
    """The state of each layer."""

    hidden: Float[Array, "layers *b units"]
    cell: Float[Array, "layers *b units"]


def empty(config: Lstm, batch: int) -> Memory:
    """Before the first token."""
    zeros = jnp.zeros((config.num_layers, batch, config.num_units))
    return Memory(zeros, zeros)


class Network(nn.Module):
    """Tokens to the logits of those that follow, all at once (`__call__`) or one by one (`step`)."""

    config: Lstm

    def setup(self) -> None:
        gates, units = 4 * self.config.num_units, self.config.num_units
        # The first layer's weights for inputs that are 1 or 0: their rows are looked up, not multiplied.
        small = nn.initializers.normal(0.1)
        self.token = nn.Embed(events.NUM_EVENTS + 1, gates, embedding_init=small)
        if self.config.hears_position:
            self.sounding = [nn.Embed(pianoroll.NUM_PITCHES + 1, gates, embedding_init=small) for _ in pianoroll.VOICES]
            self.phase = nn.Embed(PHASES, gates, embedding_init=small)
        self.between = [nn.Dense(gates) for _ in range(self.config.num_layers - 1)]
        self.recurrent = [
            self.param(f"recurrent_{n}", nn.initializers.orthogonal(), (units, gates))
            for n in range(self.config.num_layers)
        ]
        self.head = nn.Dense(events.NUM_EVENTS)

    def _heard(self, before: Int[Array, "*b"], position: events.Position) -> Float[Array, "*b gates"]:
        total = self.token(before)
        if self.config.hears_position:
            for voice, embed in enumerate(self.sounding):
                pitch = position.sounding[..., voice]
                total += embed(jnp.where(pitch == pianoroll.REST, 0, pitch - pianoroll.MIN_PITCH + 1))
            total += self.phase(position.time % PHASES)
        return total

    def __call__(
        self, before: Int[Array, "b e"], position: events.Position, keep: Float[Array, "b layers units"] | None = None
    ) -> Float[Array, "b e 200"]:
        """Logits of all tokens of strings, given those before each, where they stand, and the factors of a dropout."""
        hidden = self._heard(before, position)
        for layer, kernel in enumerate(self.recurrent):
            hidden = _run(kernel, self.between[layer - 1](hidden) if layer else hidden)
            if keep is not None:
                hidden = hidden * keep[:, layer, None]
        return self.head(hidden)

    def step(
        self, memory: Memory, before: Int[Array, " b"], position: events.Position
    ) -> tuple[Memory, Float[Array, "b 200"]]:
        """Logits of the next token."""
        gates, layers = self._heard(before, position), list[Memory]()
        for layer, kernel in enumerate(self.recurrent):
            if layer:
                gates = self.between[layer - 1](layers[-1].hidden)
            layers.append(_cell(Memory(memory.hidden[layer], memory.cell[layer]), gates, kernel))
        logits = self.head(layers[-1].hidden)
        return jax.tree.map(lambda *parts: jnp.stack(parts), *layers), logits


def _cell(memory: Memory, gates: Float[Array, "b gates"], kernel: Float[Array, "units gates"]) -> Memory:
    """Hochreiter and Schmidhuber's cell with forget gates (Gers et al. 2000), which start open."""
    write, forget, show, value = jnp.split(gates + memory.hidden @ kernel, 4, axis=-1)
    cell = jax.nn.sigmoid(forget + 1) * memory.cell + jax.nn.sigmoid(write) * jnp.tanh(value)
    return Memory(jax.nn.sigmoid(show) * jnp.tanh(cell), cell)


@jax.custom_vjp
def _run(kernel: Float[Array, "units gates"], gates: Float[Array, "b e gates"]) -> Float[Array, "b e units"]:
    """A layer over whole strings, from an empty memory."""
    return _scan(kernel, gates)


def _run_forward(kernel: Array, gates: Array) -> tuple[Array, Any]:
    hidden, pull = jax.vjp(lambda gates: _scan(kernel, gates), gates)
    return hidden, (hidden, pull)


def _run_backward(kept: Any, grads: Array) -> tuple[Array, Array]:
    # The kernel's gradient is one product over all tokens, where a scan would add up a matrix of its size at each.
    hidden, pull = kept
    (of_gates,) = pull(grads)
    before = jnp.pad(hidden, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    return jnp.einsum("beu,beg->ug", before, of_gates), of_gates


_run.defvjp(_run_forward, _run_backward)


def _scan(kernel: Float[Array, "units gates"], gates: Float[Array, "b e gates"]) -> Float[Array, "b e units"]:
    zeros = jnp.zeros((len(gates), len(kernel)))

    def one(memory: Memory, part: Float[Array, "b gates"]) -> tuple[Memory, Float[Array, "b units"]]:
        memory = _cell(memory, part, kernel)
        return memory, memory.hidden

    return jnp.moveaxis(jax.lax.scan(one, Memory(zeros, zeros), jnp.moveaxis(gates, 1, 0))[1], 0, 1)


def init(key: Key[Array, ""], config: Lstm) -> model.Variables:
    """Fresh parameters."""
    blank = jnp.zeros((1, 1), jnp.int32)
    return {"params": Network(config).init(key, blank, events.begin(1, 1))["params"]}


def mask(logits: Float[Array, "*b 200"], position: events.Position, order: events.Order) -> Float[Array, "*b 200"]:
    """Logits of which those of forbidden tokens are out of reach."""
    return jnp.where(events.allowed(position, order), logits, _NEVER)


def log_probs(
    variables: model.Variables,
    config: Lstm,
    strings: Int[Array, "b e"],
    length: Int[Array, " b"],
    keep: Float[Array, "b layers units"] | None = None,
) -> Float[Array, "b e"]:
    """Log-probability of each token in nats; those of a piece add up to that of its pitches. 0 for NOTHING.

    Args:
      variables: of the network.
      config: of the network.
      strings: canonical; a wait that ends at `length` stands for itself and all longer ones.
      length: steps of each piece.
      keep: factors of a dropout.
    """
    position = events.follow(strings, config.order)
    before = jnp.pad(strings, ((0, 0), (1, 0)), constant_values=events.START)[:, :-1]
    logits: Any = Network(config).apply(variables, jnp.maximum(before, 0), position, keep)
    laws = jax.nn.log_softmax(mask(logits, position, config.order))
    token = jnp.maximum(strings, 0)
    chosen = jnp.take_along_axis(laws, token[..., None], axis=-1)[..., 0]
    waits = laws[..., events.FIRST_WAIT :]
    steps_of = jnp.arange(1, events.MAX_WAIT + 1)
    left = length[:, None] - position.time
    longer = jax.nn.logsumexp(jnp.where(steps_of[None, None] >= left[..., None], waits, -jnp.inf), axis=-1)
    is_last = token - events.FIRST_WAIT + 1 == left
    return jnp.where(strings == events.NOTHING, 0.0, jnp.where(is_last, longer, chosen))


# ------------------------------------------------------------------------------- bodies of one device


def _strings(batch: data.Batch, order: events.Order, size: int) -> tuple[Int[Array, "b e"], Int[Array, " b"]]:
    length = jnp.sum(batch.valid, axis=1, dtype=jnp.int32)
    return events.pack(*events.slots(batch.pitches, length, order), size), length


def train_step(
    state: state_lib.TrainState, source: data.Resident | data.Batch, *, config: Config
) -> tuple[state_lib.TrainState, dict[str, Float[Array, ""]]]:
    """One update on one device: see `steps.train_step`. The loss is in nats per variable, a cell of the array."""
    train = config.train
    key = data.step_key(train.seed, state.step)
    index = steps.own_index(train.batch_size)
    batch = steps.own_batch(key, index, source, config)
    size = int(config.data.crop_steps * config.model.events_per_step) + 1
    strings, length = _strings(batch, config.model.order, size)
    keep = None
    if config.model.dropout:
        shape = (config.model.num_layers, config.model.num_units)
        keep = steps.draw_dropout(data.context_key(key), index, shape, config.model.dropout)
    cells = jax.lax.psum(jnp.sum(length) * pianoroll.NUM_VOICES, devices.AXIS)

    def loss(params: Any) -> Float[Array, ""]:
        return -jnp.sum(log_probs({"params": params}, config.model, strings, length, keep)) / cells

    part, grads = jax.value_and_grad(loss)(state.params)
    grads, mean_loss = jax.lax.psum((grads, part), devices.AXIS)
    return state_lib.descend(state, grads, {}, train), {"loss": mean_loss, "grad_norm": state_lib.norm(grads)}


def estimate_statistics(state: state_lib.TrainState, source: data.Resident, *, config: Config) -> model.Variables:
    """Weights to evaluate: the (averaged) parameters; the network has no statistics."""
    del source, config
    return {"params": state_lib.eval_params(state)}


def eval_step(
    weights: model.Variables, windows: data.Batch, clean: Bool[Array, " b"], *, config: Config, num_windows: int
) -> Float[Array, "2"]:
    """NLL in nats per variable over all windows and over the `clean` ones: see `steps.eval_step`."""
    del num_windows
    index = steps.own_index(len(windows.valid))
    size = max(config.train.eval_batch_size // jax.lax.axis_size(devices.AXIS), 1)

    def part(rows: Int[Array, " b"]) -> Float[Array, "2 2"]:
        batch = jax.tree.map(lambda x: x[rows], windows)
        strings, length = _strings(batch, config.model.order, events.SLOTS * config.data.crop_steps)
        nll = -jnp.sum(log_probs(weights, config.model, strings, length), axis=1)
        sums = [[jnp.sum(nll * counted), jnp.sum(length * counted)] for counted in (jnp.ones(len(rows)), clean[rows])]
        return jnp.array(sums)

    sums = jnp.sum(jax.lax.map(part, index.reshape(-1, size)), axis=0)
    total, frames = jax.lax.psum(sums, devices.AXIS).T
    return total / (frames * pianoroll.NUM_VOICES)


def read_config(mapping: Mapping[str, Any]) -> Config:
    """A frozen, validated config of a run: see `config.from_mapping`."""
    return config_lib.build(Config, mapping)


def check_settings(config: Config) -> None:
    """Raises InputError where a new run is told what the LSTM has no part for; stored ones may hold it."""
    if config.data.ends:
        raise errors.InputError("data.ends=True: the LSTM takes a piece for the beginning of an endless one; use False")
    usual = config_lib.Train()
    for name in (
        "weight_decay",
        "context",
        "context_prob",
        "stratify",
        "frame_share",
        "past_share",
        "teachers",
        "teacher_share",
        "bn_batches",
        "eval_contexts",
    ):
        value = getattr(config.train, name)
        if value != getattr(usual, name):
            raise errors.InputError(f"train.{name}={value}: the LSTM trains without it; leave it out")


KIND: Final = checkpoint.Kind("lstm", read_config, init, "coconet_jax.sequence")
