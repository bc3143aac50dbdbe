"""The activations by name: which exist, where they may stand, and the codes kernels know them by."""

# The codes are shared with csrc/fastmlp.h.
ACTIVATION_CODES = {
    "identity": 0,
    "relu": 1,
    "leaky_relu": 2,
    "elu": 3,
    "softplus": 4,
    "sigmoid": 5,
    "tanh": 6,
    "gelu": 7,
    "silu": 8,
    "exp": 9,
    "softmax": 10,
}
OUTPUT_ONLY = ("exp", "softmax")
HIDDEN_ACTIVATIONS = tuple(name for name in ACTIVATION_CODES if name not in OUTPUT_ONLY)
OUTPUT_ACTIVATIONS = tuple(ACTIVATION_CODES)

# Their slope near zero is about that of ReLU, so "auto" initializes them by He's rule.
RELU_FAMILY = ("relu", "leaky_relu", "elu", "softplus", "gelu", "silu")

# The derivative of these is not a polynomial of the output: a training pass keeps it from the forward pass.
DERIVATIVE_FROM_INPUT = ("softplus", "gelu", "silu")

LEAKY_RELU_SLOPE = 0.01
