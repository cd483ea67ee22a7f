"""A deep batch-norm network in notebook form: lists of layers with plain tensors, one generator, no biases."""

import torch
import torch.nn.functional as F


class Linear:
    def __init__(self, fan_in, fan_out, gain, g):
        self.weight = torch.randn((fan_in, fan_out), generator=g) * gain / fan_in**0.5

    def __call__(self, x):
        self.out = x @ self.weight
        return self.out

    def parameters(self):
        return [self.weight]


class BatchNorm:
    def __init__(self, dim, gain, eps=1e-5, momentum=0.1):
        self.eps, self.momentum, self.training = eps, momentum, True
        self.gamma, self.beta = torch.ones(dim) * gain, torch.zeros(dim)
        self.running_mean, self.running_var = torch.zeros(dim), torch.ones(dim)

    def __call__(self, x):
        if self.training:
            mean, var = x.mean(0, keepdim=True), x.var(0, keepdim=True)
            with torch.no_grad():
                self.running_mean = (1 - self.momentum) * self.running_mean + self.momentum * mean
                self.running_var = (1 - self.momentum) * self.running_var + self.momentum * var
        else:
            mean, var = self.running_mean, self.running_var
        self.out = self.gamma * (x - mean) / torch.sqrt(var + self.eps) + self.beta
        return self.out

    def parameters(self):
        return [self.gamma, self.beta]


class Tanh:
    def __call__(self, x):
        self.out = torch.tanh(x)
        return self.out

    def parameters(self):
        return []


class Stack:
    """`n_layers` hidden layers, a norm with initial gain 0.1 on the logits; trained by SGD at a constant rate."""

    def __init__(self, seed, vocab_size, block_size=3, n_embd=10, n_hidden=100, n_layers=5):
        g = self.g = torch.Generator().manual_seed(seed)
        self.block_size = block_size
        self.C = torch.randn((vocab_size, n_embd), generator=g)
        self.layers = []
        fan_in = block_size * n_embd
        for _ in range(n_layers):
            self.layers += [Linear(fan_in, n_hidden, 5 / 3, g), BatchNorm(n_hidden, 1.0), Tanh()]
            fan_in = n_hidden
        self.layers += [Linear(fan_in, vocab_size, 1.0, g), BatchNorm(vocab_size, 0.1)]
        self.parameters = [self.C, *(p for layer in self.layers for p in layer.parameters())]
        for p in self.parameters:
            p.requires_grad = True

    def logits(self, x):
        x = self.C[x].view(x.shape[0], -1)
        for layer in self.layers:
            x = layer(x)
        return x

    def step(self, X, Y, lr=0.1, batch_size=32, retain=False):
        """One update; returns the loss, and with `retain` keeps the gradient of each layer's output."""
        ix = torch.randint(0, X.shape[0], (batch_size,), generator=self.g)
        loss = F.cross_entropy(self.logits(X[ix]), Y[ix])
        if retain:
            for layer in self.layers:
                layer.out.retain_grad()
        for p in self.parameters:
            p.grad = None
        loss.backward()
        for p in self.parameters:
            p.data += -lr * p.grad
        return loss.item()

    def evaluation(self):
        for layer in self.layers:
            layer.training = False

    @torch.no_grad()
    def sample(self):
        """The ids of one word, without its end."""
        out, context = [], [0] * self.block_size
        while True:
            probs = F.softmax(self.logits(torch.tensor([context])), dim=1)
            ix = torch.multinomial(probs, num_samples=1, generator=self.g).item()
            context = [*context[1:], ix]
            if ix == 0:
                return out
            out.append(ix)
