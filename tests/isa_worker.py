"""Run by test_instruction_sets.py in a process with FASTMLP_ISA set: the heart of the tests on one backend.

It prints the instruction set and a hash of everything computed.
"""

import hashlib

import fit_cases
import numpy as np
import test_activations
import test_agreement
import test_derivatives
import test_forward
import test_gradients
import test_step
from support import DTYPES, HIDDEN_ACTIVATIONS, OUTPUTS_AND_LOSSES, make_examples, make_net

from fastmlp import SGD, Adam, _backends

HASHED_OUTPUTS = (("softmax", "cross_entropy"), ("sigmoid", "bce"), ("exp", "poisson"), ("tanh", "huber"))


def check(backend):
    """Tests of the suite that touch every kernel."""
    for dtype in DTYPES:
        for name in HIDDEN_ACTIVATIONS:
            test_activations.test_accuracy(backend, dtype, name)
            test_activations.test_derivative(backend, dtype, name)
            test_gradients.test_every_hidden_activation(backend, dtype, name)
            test_derivatives.test_every_hidden_activation(backend, dtype, name)
        for output, loss in OUTPUTS_AND_LOSSES:
            test_gradients.test_every_output_and_loss(backend, dtype, output, loss)
            test_derivatives.test_every_output_and_loss(backend, dtype, output, loss)
        for sizes in test_forward.SIZES:
            test_forward.test_forward_of_odd_shapes(backend, dtype, sizes)
            test_gradients.test_odd_shapes(backend, dtype, sizes)
        test_forward.test_compiled_forward_does_not_depend_on_the_batch(backend, dtype, (33, 65, 50, 7))
        test_forward.test_forward_of_layers_whose_inputs_are_packed(backend, dtype, 205)
        test_gradients.test_batches_over_one_block(backend, dtype, 1300)
        test_gradients.test_wide_layers(backend, dtype, (61, 70, 1030, 3), 400)
        for n in (7, 513):
            for optimizer in ("nesterov", "adamw", "rmsprop"):
                test_step.test_step_equals_its_halves(backend, dtype, optimizer, n)
    test_agreement.test_200_steps_in_float64(backend, "gelu", "sigmoid", "bce", "adam")
    test_agreement.test_200_steps_in_float32(backend, "tanh", "sgd")


def digest(backend):
    """A hash of outputs, gradients and trained parameters."""
    hashed = hashlib.sha256()
    for dtype in DTYPES:
        for activation in HIDDEN_ACTIVATIONS:
            for output, loss in HASHED_OUTPUTS:
                net, _ = make_net(
                    (13, 37, 18, 5),
                    activation=activation,
                    output_activation=output,
                    loss=loss,
                    l1=1e-3,
                    l2=1e-2,
                    dropout=0.2,
                    dtype=dtype,
                    backend=backend,
                )
                X, y = make_examples(net, 45)
                gradients = net.backward(X, np.ones((45, 5), dtype=dtype), input_gradient=True)
                further = test_derivatives.everything(net, X, y)
                for array in (net.forward(X), net.logits(X), gradients.flat, gradients.input, *further):
                    hashed.update(array.tobytes())
                optimizer = Adam(clip_norm=1.0) if activation == "tanh" else SGD(lr=0.05, momentum=0.5)
                history = net.fit(X, y, optimizer=optimizer, epochs=3, batch_size=16)
                hashed.update(net.parameters.tobytes())
                hashed.update(np.array(history.loss).tobytes())
        net, _ = make_net((40, 100, 10), output_activation="softmax", dtype=dtype, backend=backend)
        X, y = make_examples(net, 1300)
        net.fit(X, y, optimizer=Adam(), epochs=2, batch_size=None)
        hashed.update(net.parameters.tobytes())
    for number, case in enumerate(fit_cases.sample()):
        hashed.update(fit_cases.fit(case, backend, 1, fit_cases.BATCHES[number % 3]))
    return hashed.hexdigest()


def main(backend):
    check(backend)
    print(_backends.instruction_set(backend), digest(backend))
