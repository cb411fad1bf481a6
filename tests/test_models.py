"""companion/models.py: shapes, scales and seeds of the small networks."""

import math

import pytest
import torch
from network_oracles import filled, generator
from torch import nn

from companion.hessian import hessian_matrix, top_eigenvalues
from companion.models import mlp, rnn, small_cnn, transformer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [True, False])
def test_a_perceptron_has_the_widths_asked_for(dtype, bias):
    model = mlp(5, 4, 3, 2, activation=nn.Tanh, bias=bias, generator=generator(), dtype=dtype)
    assert [type(layer) for layer in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert [tuple(model[i].weight.shape) for i in (0, 2, 4)] == [(4, 5), (3, 4), (2, 3)]
    assert all((model[i].bias is not None) is bias for i in (0, 2, 4))
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(p.requires_grad for p in model.parameters())
    x = torch.randn(6, 5, generator=generator(), dtype=dtype)
    hidden = x
    for i in (0, 2, 4):
        hidden = hidden @ model[i].weight.T + (model[i].bias if bias else 0)
        hidden = hidden.tanh() if i < 4 else hidden
    torch.testing.assert_close(model(x), hidden)


def test_two_widths_make_a_linear_model_and_relu_is_the_default():
    assert [type(layer) for layer in mlp(3, 2, generator=generator())] == [nn.Linear]
    assert type(mlp(3, 2, 1, generator=generator())[1]) is nn.ReLU
    assert mlp(3, 2, generator=generator())[0].weight.dtype == torch.float64


def test_weights_are_gaussian_of_variance_two_over_inputs_and_biases_zero():
    model = mlp(200, 300, 5, generator=generator())
    for layer, inputs in ((model[0], 200), (model[2], 300)):
        weight = layer.weight.detach() * math.sqrt(inputs / 2)
        n = weight.numel()
        assert abs(float(weight.mean())) < 4 / n**0.5
        assert abs(float(weight.square().mean()) - 1) < 4 * (2 / n) ** 0.5
        assert abs(float((weight**4).mean()) - 3) < 4 * (96 / n) ** 0.5
        assert not layer.bias.any()
    cnn = small_cnn((60, 70), generator=generator())
    for layer, inputs in ((cnn[0], 9), (cnn[3], 60 * 9), (cnn[7], 280)):
        weight = layer.weight.detach() * math.sqrt(inputs / 2)
        assert abs(float(weight.square().mean()) - 1) < 4 * (2 / weight.numel()) ** 0.5
        assert not layer.bias.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_convolutional_network_takes_small_images(dtype):
    model = small_cnn((3, 5), activation=nn.Tanh, classes=4, generator=generator(), dtype=dtype)
    x = torch.randn(2, 1, 8, 8, generator=generator(), dtype=dtype)
    hidden = nn.functional.conv2d(x, model[0].weight, model[0].bias, padding=1).tanh().reshape(2, 3, 4, 2, 4, 2)
    hidden = hidden.amax((3, 5))
    hidden = nn.functional.conv2d(hidden, model[3].weight, model[3].bias, padding=1).tanh().reshape(2, 5, 2, 2, 2, 2)
    expected = hidden.amax((3, 5)).reshape(2, 20) @ model[7].weight.T + model[7].bias
    torch.testing.assert_close(model(x), expected)
    assert expected.shape == (2, 4)
    assert {p.dtype for p in model.parameters()} == {dtype}
    default = small_cnn(generator=generator())
    assert [default[i].weight.shape[0] for i in (0, 3, 7)] == [4, 8, 10]
    assert type(default[1]) is type(default[4]) is nn.ReLU


@pytest.mark.parametrize("make", [lambda g: mlp(3, 4, 2, generator=g), lambda g: small_cnn(generator=g)])
def test_the_generator_decides_the_weights_and_nothing_else_does(make):
    before = torch.random.get_rng_state()
    first, again, other = make(generator(1)), make(generator(1)), make(generator(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)


@pytest.mark.parametrize("widths", [(), (3,)])
def test_too_few_widths_are_refused(widths):
    with pytest.raises(ValueError, match=r"^widths must be at least inputs and outputs, got \("):
        mlp(*widths, generator=generator())


@pytest.mark.parametrize("width", [0, -1, 2.0, True, "3"])
def test_a_bad_width_is_refused(width):
    with pytest.raises(ValueError, match=f"^widths must be a whole number of at least 1, got {width!r}$"):
        mlp(3, width, 2, generator=generator())
    with pytest.raises(ValueError, match=f"^channels must be a whole number of at least 1, got {width!r}$"):
        small_cnn((3, width), generator=generator())
    with pytest.raises(ValueError, match=f"^classes must be a whole number of at least 1, got {width!r}$"):
        small_cnn(classes=width, generator=generator())


@pytest.mark.parametrize("channels", [(1,), (1, 2, 3), ()])
def test_another_number_of_channels_is_refused(channels):
    with pytest.raises(ValueError, match=r"^channels must be two numbers, got \("):
        small_cnn(channels, generator=generator())


def test_the_recurrent_network_is_torchs():
    model = rnn(3, 5, 2, generator=generator())
    reference = nn.RNN(3, 5, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        model.encode.bias.normal_(generator=generator(4))
        reference.weight_ih_l0.copy_(model.encode.weight)
        reference.bias_ih_l0.copy_(model.encode.bias)
        reference.weight_hh_l0.copy_(model.recurrent.weight)
        reference.bias_hh_l0.zero_()
    for length in (1, 4):
        x = torch.randn(6, length, 3, generator=generator(1), dtype=torch.float64)
        torch.testing.assert_close(model(x), model.decode(reference(x)[0][:, -1]))
    wide = rnn(200, 300, 5, generator=generator())
    for layer, variance in ((wide.encode, 2 / 200), (wide.recurrent, 1 / 300), (wide.decode, 2 / 300)):
        n = layer.weight.numel()
        assert abs(float(layer.weight.detach().square().mean()) / variance - 1) < 4 * (2 / n) ** 0.5
        assert layer.bias is None or not layer.bias.any()


def test_the_transformer_is_made_of_torchs_parts():
    model = filled(transformer(3, 4, 2, length=5, generator=generator()))
    x = torch.randn(6, 5, 3, generator=generator(1), dtype=torch.float64)
    hidden = x @ model.embed.weight.T + model.embed.bias + model.positions
    parts = model.attend(nn.functional.layer_norm(hidden, (4,))).split(4, dim=-1)
    hidden = hidden + model.mix(nn.functional.scaled_dot_product_attention(*parts))
    inner = nn.Sequential(nn.LayerNorm(4, dtype=torch.float64), model.widen, nn.ReLU(), model.narrow)
    hidden = hidden + inner(hidden)
    torch.testing.assert_close(model(x), model.decode(nn.functional.layer_norm(hidden, (4,)).mean(1)))
    assert model.widen.out_features == 8


def test_every_derivative_of_the_transformer_agrees():
    # With torch's own layer norm the largest eigenvalue was wrong in the third digit.
    model = transformer(2, 3, 3, length=2, generator=generator(1))
    x = torch.randn(6, 2, 2, generator=generator(2), dtype=torch.float64)
    y = torch.randn(6, 3, generator=generator(3), dtype=torch.float64)
    largest = torch.linalg.eigvalsh(hessian_matrix(model, nn.MSELoss(), x, y))[-1:]
    torch.testing.assert_close(top_eigenvalues(model, nn.MSELoss(), x, y), largest)


@pytest.mark.parametrize(
    "make", [lambda g: rnn(3, 4, 2, generator=g), lambda g: transformer(3, 4, 2, length=2, generator=g)]
)
def test_networks_for_sequences_come_from_their_generator(make):
    before = torch.random.get_rng_state()
    first, again, other = make(generator(1)), make(generator(1)), make(generator(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert name.endswith("bias") or not torch.equal(a, c)
    with pytest.raises(ValueError, match=r"^width must be a whole number of at least 1, got 0$"):
        rnn(3, 0, 2, generator=generator())
    with pytest.raises(ValueError, match=r"^length must be a whole number of at least 1, got 2\.0$"):
        transformer(3, 4, 2, length=2.0, generator=generator())
