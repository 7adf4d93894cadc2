"""The demo family: Fashion-MNIST classifiers, from a residual CNN down to a tiny separable net."""
